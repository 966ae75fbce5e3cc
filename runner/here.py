"""Drives a run in this terminal, and is transparent: same bytes, same input, same exit code."""

import asyncio
import contextlib
import errno
import os
import signal
import uuid
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from eventstore.contract import EventLog
from eventstore.ledger import Ledger
from projections.spending import Left, no_budgets
from runfold.commands import Claim, Command, Resume, Reused, StartHere
from runfold.envelope import run_id_of
from runfold.errors import LogFailed, RunfoldError, Unavailable
from runfold.events import CostEstimated, Json, RunQueued
from runfold.limits import with_new
from runfold.ordered_ids import ordered_id
from runfold.redact import redact, secrets_of
from runfold.state import Run, new_run
from runner import machine
from runner.asking import Asking
from runner.claims import Claims
from runner.driving import Driving
from runner.heeding import Charge
from runner.launch import Launch, environment_to_record
from runner.prices import check_order, check_price
from runner.steps.stepping import driving_of
from runner.turns import terminal
from runner.turns.turn import TurnEnd

FIRST_CLAIM = 1
EXIT_LIMIT, EXIT_TIMED_OUT, EXIT_NOT_RUNNABLE, EXIT_NOT_FOUND = 75, 124, 126, 127


class Interrupted(Protocol):
    def interrupt(self, what: str) -> None: ...

    def resize(self) -> None: ...


async def drive_here(
    ledger: Ledger,
    log: EventLog,
    order: RunQueued,
    launch: Launch,
    *,
    data: Path,
    tenant: str = "default",
    actor: str = "system",
    quiet: bool = False,
    start: Callable[[str], None] | None = None,
    reused: tuple[Reused, ...] = (),
    left: Left = no_budgets,
    estimated: CostEstimated | None = None,
    cause: str | None = None,
) -> int:
    """Open the run that was ordered and drive it here to its end; `cause` is the event that the order answers."""
    secrets = secrets_of(os.environ)
    run_id = run_id_of(uuid.UUID(ordered_id()))
    order = msgspec.structs.replace(
        order,
        driver="here",
        typed_by=machine.account(),
        environment={} if order.workflow is not None else environment_to_record(),
        title=redact(order.title, secrets),
        command=tuple(redact(word, secrets) for word in order.command),
        prompt=None if order.prompt is None else redact(order.prompt, secrets),
    )
    whose = msgspec.structs.replace(new_run(run_id, tenant), workflow=order.workflow)
    check_order(order, await left(whose))
    claims = await Claims.open(data, presence=log.presence)
    try:
        driving = driving_of(order.steps)(
            Charge(
                ledger=ledger,
                log=log,
                claims=claims,
                launch=launch,
                data=data,
                run_id=run_id,
                tenant=tenant,
                claim=FIRST_CLAIM,
                waits=terminal.is_terminal(0),
                asking=Asking(actor) if terminal.is_terminal(0) and not quiet else None,
                left=left,
            )
        )
        with signals_to(driving):
            # The lease comes first: a claim is never without one.
            await claims.take(run_id, tenant, FIRST_CLAIM)
            opened = await driving.execute(
                StartHere(
                    queued=order,
                    worker=claims.worker,
                    host=machine.host(),
                    **machine.this_process(),
                    reused=reused,
                    estimated=estimated,
                ),
                actor=actor,
                cause=cause,
            )
            if start is not None:
                start(run_id)
            position = opened.events[-1].position
            return await _drive(driving, after=position, quiet=quiet, asks=order.approval)
    finally:
        await claims.close()


async def resume_here(
    ledger: Ledger,
    log: EventLog,
    run: Run,
    launch: Launch,
    *,
    data: Path,
    actor: str = "system",
    reason: str = "",
    limits: Mapping[str, Json] | None = None,
    quiet: bool = False,
    left: Left = no_budgets,
) -> int:
    """Take a run that rests over and drive it here; its next turn goes on with the agent's own session."""
    limits = dict(limits or {})
    check_price(
        launch.argv,
        with_new(run.limits, limits),
        format_name=launch.format,
        model=launch.model,
        steps=run.steps,
        budgets=await left(run),
    )
    claims = await Claims.open(data, presence=log.presence)
    claim = run.claim + 1
    try:
        driving = driving_of(run.steps)(
            Charge(
                ledger=ledger,
                log=log,
                claims=claims,
                launch=launch,
                data=data,
                run_id=run.run_id,
                tenant=run.tenant,
                claim=claim,
                waits=terminal.is_terminal(0),
                asking=Asking(actor) if terminal.is_terminal(0) and not quiet else None,
                resumes=run.started,
                left=left,
            )
        )
        with signals_to(driving):
            await claims.take(run.run_id, run.tenant, claim)
            command: Command = Resume(
                reason=reason, driver="here", limits=limits, worker=claims.worker, host=machine.host()
            )
            if run.status == "queued":
                command = Claim(worker=claims.worker, host=machine.host())
            try:
                executed = await driving.execute(command, actor=actor)
            except (Unavailable, LogFailed):
                # Perhaps it was won: its lease tells others that nobody drives it.
                raise
            except RunfoldError:
                # Who may not go on must not keep others from it.
                await claims.release(run.run_id, claim)
                raise
            # Where that cannot be written now, the first one stands.
            with contextlib.suppress(Unavailable):
                await claims.take_again(run.run_id, run.tenant, claim)
            return await _drive(driving, after=executed.events[-1].position, quiet=quiet)
    finally:
        await claims.close()


async def _drive(driving: Driving, *, after: int, quiet: bool, asks: str | None = None) -> int:
    is_told = not quiet and terminal.is_terminal(2)
    if asks is not None and not quiet:
        _tell(f"{driving.run_id} starts once `runfold approve {driving.run_id}` has allowed it: {asks}")
    elif is_told:
        _tell(f"{driving.run_id} running; `runfold cancel {driving.run_id}` ends it")
    modes = terminal.saved_modes()
    try:
        run = await driving.drive(after=after)
    finally:
        terminal.restore_modes(modes)
    if is_told:
        _tell(f"{driving.run_id} {run.status} {run.reason_code}")
    return _exit_code(run, driving)


@contextlib.contextmanager
def signals_to(driving: Interrupted) -> Generator[None, None, None]:
    """Ctrl-C, its relatives and a new size of the terminal are the driver's to act on while the block runs."""
    loop = asyncio.get_running_loop()
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    held = [number for number in ending if signal.getsignal(number) != signal.SIG_IGN]
    for number in held:
        loop.add_signal_handler(number, driving.interrupt, number.name)
    loop.add_signal_handler(signal.SIGWINCH, driving.resize)
    try:
        yield
    finally:
        for number in (*held, signal.SIGWINCH):
            loop.remove_signal_handler(number)


def _exit_code(run: Run, driving: Driving) -> int:
    if run.status in ("cancelled", "cancelling"):
        return 128 + signal.SIGTERM
    if driving.interrupted:
        return 128 + signal.Signals[driving.interrupted]
    if run.status in ("stopped", "paused", "pausing", "queued"):
        return EXIT_LIMIT
    return code_of(driving.last) or (0 if run.status == "completed" else 1)


def code_of(end: TurnEnd | None) -> int:
    """What a shell would say of the last turn."""
    if end is None:
        return 0
    if end.timed_out:
        return EXIT_TIMED_OUT
    if end.report.errno is not None:
        return EXIT_NOT_FOUND if end.report.errno == errno.ENOENT else EXIT_NOT_RUNNABLE
    if end.report.signal is not None:
        return 128 + end.report.signal
    return end.report.exit_code or 0


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"runfold: {text}\n".encode())

"""`runfold cancel`, `pause`, `resume` and `recover`: what a person wishes of a run; the ledger decides."""

import os
from pathlib import Path
from typing import Literal

import click
import msgspec

from cli.data_folder import need_folder
from cli.reading import open_runs, remote_of, run_argument, settings_of
from cli.runs import find_run
from cli.screen import next_command, talk
from cli.settings import Settings
from cli.wishing import execute, finished, take_in
from runfold.commands import Cancel, Pause, Resume
from runfold.events import Json
from runfold.limits import parse_pairs
from runfold.redact import secrets_of
from runfold.snapshot import Snapshot

Action = Literal["cancel", "pause", "resume"]
COMMANDS: dict[Action, type[Cancel] | type[Pause] | type[Resume]] = {
    "cancel": Cancel,
    "pause": Pause,
    "resume": Resume,
}
reason_option = click.option("--reason", default="", help="Why, for the record.")


@click.command()
@run_argument
@reason_option
@click.pass_context
def cancel(context: click.Context, *, run_text: str, reason: str) -> None:
    """Cancel a run: its processes are ended, and it never goes on."""
    run_id = _act(context, run_text, "cancel", reason)
    next_command(f"runfold status {run_id}")


@click.command()
@run_argument
@reason_option
@click.option("--now", is_flag=True, help="Stop its processes where they are, not at the turn's end.")
@click.pass_context
def pause(context: click.Context, *, run_text: str, reason: str, now: bool) -> None:
    """Pause a run when its present turn ends."""
    run_id = _act(context, run_text, "pause", reason, now=now)
    next_command(f"runfold resume {run_id}")


@click.command()
@run_argument
@reason_option
@click.option("--limit", "limits", multiple=True, metavar="KEY=VALUE", help="A new limit, as `cost=5`; repeatable.")
@click.pass_context
def resume(context: click.Context, *, run_text: str, reason: str, limits: tuple[str, ...]) -> None:
    """Let a paused or stopped run go on; one that was started by hand goes on here."""
    settings = settings_of(context)
    more = parse_pairs(limits)
    with open_runs(settings) as runs:
        run = find_run(runs, run_text)
        is_here = remote_of(runs) is None and _is_typed(run) and not run.worker
    if is_here and run.status in ("paused", "stopped", "queued"):
        context.exit(finished(_resume_here(settings, run.id, reason, more)))
    run_id = _act(context, run_text, "resume", reason, limits=more)
    next_command(f"runfold watch {run_id}")


def _is_typed(run: Snapshot) -> bool:
    """A command that somebody typed goes on in a terminal, also where a server has repeated it meanwhile."""
    return run.driver == "here" or (run.driver == "queue" and run.workflow is None)


async def _resume_here(settings: Settings, run_id: str, reason: str, limits: dict[str, Json]) -> int:
    from cli.actor import local_actor
    from cli.budgets import spending_here
    from cli.workflow_file import read_registry
    from eventstore.ledger import Ledger
    from eventstore.opening import open_log
    from runner.here import resume_here
    from runner.launch import launch_here, order_of_run
    from runner.turns.terminal import is_terminal

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        order = await order_of_run(log, run_id)
        workflow = read_registry(Path(order.cwd) if order.cwd else None).workflows.get(order.workflow or "")
        launch = launch_here(order, workflow, shown=True, tty=is_terminal(1))
        ledger = Ledger(log, data=settings.data, secrets=secrets_of(os.environ))
        run = await ledger.state(run_id)
        async with spending_here(settings.data, Path(order.cwd) if order.cwd else None) as left:
            return await resume_here(
                ledger,
                log,
                run,
                launch,
                data=settings.data,
                actor=local_actor(),
                reason=reason,
                limits=limits,
                left=left,
            )
    finally:
        await log.close()


@click.command()
@click.pass_context
def recover(context: click.Context) -> None:
    """End runs of this host whose driver is gone."""
    settings = settings_of(context)
    need_folder(settings, "recover")
    found = finished(_recover(settings))
    for run_id in found:
        click.echo(run_id)
    talk(f"{len(found)} recovered" if found else "nothing to recover")


def _act(
    context: click.Context,
    run_text: str,
    action: Action,
    reason: str,
    *,
    now: bool = False,
    limits: dict[str, Json] | None = None,
) -> str:
    settings = settings_of(context)
    status: str | None
    with open_runs(settings) as runs:
        run = find_run(runs, run_text)
        if (remote := remote_of(runs)) is not None:
            status = remote.control(run.id, action, reason=reason, now=now, limits=limits).status
        else:
            command = Pause(reason=reason, now=True) if now else COMMANDS[action](reason=reason)
            if limits and isinstance(command, Resume):
                command = msgspec.structs.replace(command, limits=limits)
            status = finished(execute(settings, run.id, command, run.tenant)).run.status
    talk(f"run {run.id} is {status}")
    return run.id


async def _recover(settings: Settings) -> list[str]:
    import asyncio

    from eventstore.ledger import Ledger
    from eventstore.opening import open_log
    from eventstore.state_file import kept_going, mend_states
    from runner.recovering.recover import recover as recover_runs

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        ledger = Ledger(log, data=settings.data, secrets=secrets_of(os.environ))
        await take_in(ledger, settings.data)
        with kept_going():
            await asyncio.to_thread(mend_states, settings.data, every=True)
        return await recover_runs(ledger, log, data=settings.data)
    finally:
        await log.close()

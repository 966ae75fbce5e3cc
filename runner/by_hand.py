"""Who goes on with what was started by hand: the terminal that still waits for it, this server, or whoever types it.

Only the machine and the account that typed a command repeat it, word for word and in its folder, and only for an admin.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from eventstore.boot import boot_id
from eventstore.contract import EventLog
from eventstore.leases import Leases, Waiting
from eventstore.ledger import Ledger
from runfold.commands import Pause
from runfold.errors import Damaged, Forbidden, InvalidSetting, NotAllowed, NotFound, Refused
from runfold.events import Driver, RunQueued
from runfold.state import Run
from runfold.workflows import Registry
from runner import machine
from runner.launch import launch_of, order_of_run

_RESTS = ("paused", "stopped")


class ByHand:
    """What a server answers to who asks it over HTTP for a run that was started by hand."""

    def __init__(self, log: EventLog, *, data: Path, registry: Callable[[], Registry], repeats: bool) -> None:
        """`repeats`: whether commands are repeated here at all."""
        self._log, self._data, self._registry, self._repeats = log, data, registry, repeats

    async def driver_of(self, run: Run, *, is_admin: bool) -> Driver | None:
        """Who drives the run from now on; None is: whoever has it, or waits for it.

        Raises Forbidden, with what to type, where nobody here would go on with it.
        """
        if run.driver != "here" or run.worker or run.status not in _RESTS:
            return None
        if await asyncio.to_thread(is_waited_for, self._data, run.run_id):
            return None
        order = await order_of_run(self._log, run.run_id)
        self._check(run, order, "resume", is_admin=is_admin)
        return "queue"

    def check_retry(self, run: Run, order: RunQueued, *, is_admin: bool) -> None:
        """Raises Forbidden, with what to type, where the command that was started by hand is not repeated here."""
        if run.is_driven and order.workflow is None:
            self._check(run, order, "retry", is_admin=is_admin)

    def _check(self, run: Run, order: RunQueued, word: str, *, is_admin: bool) -> None:
        workflow = None
        if order.workflow is None:
            if not self._repeats:
                _refuse(run, order, word, "this server listens beyond its own machine, and repeats no command")
            if order.typed_by != machine.account():
                _refuse(run, order, word, f"its command was typed by {order.typed_by or 'somebody unknown'}")
            if not is_admin:
                _refuse(run, order, word, "only an admin has a command repeated")
        else:
            workflow = self._registry().workflows.get(order.workflow)
        try:
            launch_of(order, workflow)
        except (InvalidSetting, NotAllowed) as error:
            _refuse(run, order, word, error.message)


def _refuse(run: Run, order: RunQueued, word: str, why: str) -> NoReturn:
    where = f" as {order.typed_by}" if order.typed_by else " where it was started"
    raise Forbidden(
        f"run `{run.run_id}` was started by hand, and nobody here goes on with it: {why}",
        hint=f"type `runfold {word} {run.run_id}`{where}",
        run_id=run.run_id,
    )


def is_waited_for(data: Path, run_id: str) -> bool:
    """Whether a terminal of this host waits to go on with the run."""
    return any(_is_there(it) for it in _waiting(data) if it.run_id == run_id)


async def rest_unattended(ledger: Ledger, log: EventLog, active: Iterable[Run], *, data: Path) -> list[str]:
    """Pause what may go on and has nobody who would: its terminal is gone. The ids of those runs."""
    left = [run for run in active if _is_for_a_terminal(run)]
    if not left:
        return []
    waiting = {it.run_id for it in await asyncio.to_thread(_waiting, data) if _is_there(it)}
    return [run.run_id for run in left if run.run_id not in waiting and await _rest(ledger, log, run)]


async def _rest(ledger: Ledger, log: EventLog, run: Run) -> bool:
    reason = f"no terminal waits for it any more; `runfold resume {run.run_id}` goes on with it"
    try:
        if not _is_for_a_terminal(await ledger.state(run.run_id)):
            return False
        if (await order_of_run(log, run.run_id)).typed_by != machine.account():
            return False  # Its terminal is one of another machine.
        return bool((await ledger.execute(run.run_id, Pause(reason=reason), actor="system", tenant=run.tenant)).events)
    except (Refused, NotFound, InvalidSetting, Damaged):
        return False  # It went on, or ended, meanwhile, or nothing follows from what was altered.


def _is_for_a_terminal(run: Run) -> bool:
    return run.status == "queued" and run.driver == "here" and not run.worker


def _waiting(data: Path) -> list[Waiting]:
    """Those of this host; the rows of processes that are gone are taken away on the way."""
    if not (data / "leases.db").exists():
        return []
    leases = Leases.open(data)
    try:
        found = leases.waiting(machine.host())
        for it in found:
            if not _is_there(it):
                leases.leave(it)
        return found
    finally:
        leases.close()


def _is_there(waiting: Waiting) -> bool:
    return waiting.boot_id == boot_id() and machine.is_process_alive(waiting.pid, waiting.pid_started_at)

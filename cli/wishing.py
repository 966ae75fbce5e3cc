"""A command put to a run of the data folder by the person at this terminal, after what is overdue there was ended."""

import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cli.screen import talk
from cli.settings import Settings
from runfold.commands import Command
from runfold.ordered_ids import ordered_id
from runfold.redact import secrets_of

if TYPE_CHECKING:
    from eventstore.contract import EventLog
    from eventstore.ledger import Executed, Ledger
    from runfold.state import Run

T = TypeVar("T")


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What came of it; asyncio is loaded only here, so that help and a server elsewhere do not wait for it."""
    import asyncio

    return asyncio.run(work)


async def execute(
    settings: Settings, run_id: str, command: Command, tenant: str, *, command_id: str | None = None
) -> "Executed":
    from cli.actor import local_actor

    async with open_ledger(settings) as (ledger, log):
        executed = await ledger.execute(
            run_id, command, command_id=command_id or ordered_id(), actor=local_actor(), tenant=tenant
        )
        await _rest_unattended(ledger, log, [executed.run], settings.data)
        return executed


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncGenerator[tuple["Ledger", "EventLog"], None]:
    from eventstore.ledger import Ledger
    from eventstore.opening import open_log

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        ledger = Ledger(log, data=settings.data, secrets=secrets_of(os.environ))
        await end_overdue(ledger, log, settings.data)
        yield ledger, log
    finally:
        await log.close()


async def end_overdue(ledger: "Ledger", log: "EventLog", data: Path) -> None:
    """Whoever writes first takes in what was left for the log, and, with no server, ends what is overdue here."""
    from cli.server_lock import running_server
    from projections.engine.views import Views
    from projections.runs import VIEW, active_runs
    from runner.reactor import Reactor
    from runner.recovering.recover import recover

    await take_in(ledger, data)
    if running_server(data) is not None:
        return
    for lost in await recover(ledger, log, data=data):
        talk(f"run {lost} had lost its driver")
    views = Views.open(data, views=(VIEW,))
    try:
        views.refresh()
        active = active_runs(views.connection)
    finally:
        views.close()
    await _rest_unattended(ledger, log, active, data)
    for run in await Reactor(ledger).look(active):
        talk(f"run {run.run_id} is {run.status}: {run.message}")


async def _rest_unattended(ledger: "Ledger", log: "EventLog", runs: "list[Run]", data: Path) -> None:
    if any(run.status == "queued" and run.driver == "here" for run in runs):
        from runner.by_hand import rest_unattended

        await rest_unattended(ledger, log, runs, data=data)


async def take_in(ledger: "Ledger", data: Path) -> None:
    """Record what programs have left in the spool, because nobody was there who could."""
    from cli.actor import local_actor
    from runner.intake import take_in_spool

    for run_id in await take_in_spool(ledger, data, actor=local_actor()):
        talk(f"run {run_id} is recorded now; its program could not reach us")

"""`runfold skip VIEW POSITION`: a person's word, recorded, that a view leaves out an event that it cannot take."""

import asyncio
import time

import click

from cli.actor import local_actor
from cli.data_folder import need_folder
from cli.reading import settings_of
from cli.screen import next_command, talk
from eventstore.log_file import open_reader
from eventstore.opening import open_log
from eventstore.reading import read_page
from projections.catalogue import VIEWS
from projections.engine.checkpoints import Checkpoint
from projections.engine.skips import record_skip
from projections.engine.views import Views
from runfold.errors import NotAllowed
from runfold.events import ViewEventSkipped


@click.command()
@click.argument("view", type=click.Choice([view.name for view in VIEWS]))
@click.argument("position", type=click.IntRange(min=1))
@click.option("--reason", default="", help="Why; kept with the skip.")
@click.pass_context
def skip(context: click.Context, *, view: str, position: int, reason: str) -> None:
    """Let a parked view leave out the event at POSITION; every later rebuild leaves it out too."""
    settings = settings_of(context)
    need_folder(settings, "skip")
    open_reader(settings.data).close()  # Raises where there is no log.
    views = Views.open(settings.data)
    try:
        views.refresh()
        parked_at = _parked_at(views, view)
        if parked_at != position:
            where = "is not parked" if parked_at is None else f"is parked at event {parked_at}, not {position}"
            raise NotAllowed(f"view `{view}` {where}; nothing was changed", hint="`runfold doctor` says what is parked")
        asyncio.run(_record(context, ViewEventSkipped(view=view, position=position, reason=reason)))
        freshness = views.refresh()
    finally:
        views.close()
    talk(f"view `{view}` leaves out event {position}, and stands at {freshness.position}")
    next_command("runfold doctor" if freshness.parked else "runfold ps")


def _parked_at(views: Views, name: str) -> int | None:
    """The position of the event that the view is parked before; None where it is not."""
    checkpoint = views.checkpoints().get(name, Checkpoint())
    log = views.open_log()
    if checkpoint.status != "parked" or log is None:
        return None
    events = read_page(log, after=checkpoint.position, limit=1).events
    return events[0].position if events else None


async def _record(context: click.Context, event: ViewEventSkipped) -> None:
    settings = settings_of(context)
    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        await record_skip(log, event, actor=local_actor(), at_us=time.time_ns() // 1000)
    finally:
        await log.close()

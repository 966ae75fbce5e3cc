"""What must be true of a data folder after whatever happened to it."""

import asyncio
import uuid
from pathlib import Path

from eventstore.log_file import open_reader
from eventstore.objects import blobs
from eventstore.proof.anchors import anchors_beside
from eventstore.proof.verifying import Proof
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from projections.engine.drift import Drift
from projections.engine.views import Views
from runfold.envelope import NewEvent
from runfold.errors import NotFound


def new(text: str, identity: str = "") -> NewEvent:
    return NewEvent(
        id=identity or str(uuid.uuid4()),
        type="message",
        data=b'{"text":"%s"}' % text.encode(),
        at_us=1,
        tenant="default",
        actor="system",
    )


def wrongs(data: Path, acknowledged: list[str], *, views: bool = True) -> list[str]:
    """What is lost or unsound; `acknowledged` are the lines that were said: `event RUN POSITION ID`, `blob SHA256`."""
    found = _log_wrongs(data, acknowledged)
    if found:
        return found
    try:
        asyncio.run(_goes_on(data))
        # A line that was torn has spoilt none that was written since.
        found += [fault.message for fault in anchors_beside(data)[1]]
        if views:
            found += _view_wrongs(data)
    except Exception as error:
        found.append(f"it does not go on: {type(error).__name__}: {error}")
    return found


def _log_wrongs(data: Path, acknowledged: list[str]) -> list[str]:
    try:
        connection = open_reader(data)
    except NotFound as error:
        return [f"all is lost: {error}"] if acknowledged else []
    except Exception as error:
        return [f"it cannot be opened: {type(error).__name__}: {error}"]
    try:
        proof = Proof(connection)
        beside, unreadable = anchors_beside(data)  # Its last line may be torn: the anchor is in the log too.
        found = [fault.message for fault in (*unreadable, *proof.faults(anchors=beside))]
        held: dict[tuple[str, int], str] = {}
        after = 0
        while events := read_page(connection, after=after).events:
            held.update({(event.run_id, event.position): event.id for event in events})
            after = events[-1].position
        for line in acknowledged:
            kind, *rest = line.split()
            if kind == "event" and held.get((rest[0], int(rest[1]))) != rest[2]:
                found.append(f"lost: {line}")
            elif kind == "blob":
                try:
                    blobs.get(data, rest[0])
                except NotFound:
                    found.append(f"lost: {line}")
        return found
    except Exception as error:
        return [f"it cannot be read: {type(error).__name__}: {error}"]
    finally:
        connection.close()


async def _goes_on(data: Path) -> None:
    log = await SqliteLog.open(data)
    try:
        stream = f"r_after_{uuid.uuid4()}"
        await log.append(stream, [new("after")], expected=0)
    finally:
        await log.close()


def _view_wrongs(data: Path) -> list[str]:
    views = Views.open(data)
    freshness = views.refresh(wait_seconds=20)
    views.close()
    if freshness.stale:
        return [f"the views are stale: {freshness}"]
    connection = open_reader(data)
    try:
        return [fault.message for fault in Drift(connection, data).faults()]
    finally:
        connection.close()

"""What the ledger's tests share: a ledger on a real log, with a reported run in it."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from eventstore.ledger import Executed, Ledger
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from runfold.commands import Command, Observe, OpenReported
from runfold.envelope import Recorded
from runfold.events import Message, RunQueued

RUN = "r_a"


@asynccontextmanager
async def opened(data: Path, run_id: str = RUN) -> AsyncGenerator[Ledger, None]:
    """A ledger on the log of a folder; the run is opened where it is not yet."""
    log = await SqliteLog.open(data)
    try:
        ledger = Ledger(log)
        key = str(uuid.uuid5(uuid.NAMESPACE_URL, run_id))
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=run_id, command_id=key)
        yield ledger
    finally:
        await log.close()


async def act(
    ledger: Ledger,
    command: Command,
    *,
    run_id: str = RUN,
    command_id: str | None = None,
    ids: Sequence[str | None] = (),
    tenant: str = "default",
) -> Executed:
    return await ledger.execute(run_id, command, command_id=command_id, ids=ids, actor="user:a", tenant=tenant)


def say(*texts: str) -> Observe:
    return Observe(events=tuple(Message(text=text) for text in texts))


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def stored(data: Path, stream: str = RUN) -> list[Recorded]:
    """All events of a stream, as another process reads them."""
    reader = open_reader(data)
    try:
        events: list[Recorded] = []
        while page := read_page(reader, after=events[-1].position if events else 0, stream=stream).events:
            events += page
        return events
    finally:
        reader.close()


def messages(data: Path, stream: str = RUN) -> list[str]:
    events = [recorded.event() for recorded in stored(data, stream)]
    return [event.text for event in events if isinstance(event, Message)]

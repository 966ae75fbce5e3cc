"""Events to append, and all that a log holds."""

import uuid

from eventstore.contract import EventLog
from runfold.envelope import NewEvent, Recorded

START_US = 1_700_000_000_000_000


def new_event(data: bytes = b"{}", *, identity: str | None = None, type_name: str = "note_added") -> NewEvent:
    return NewEvent(
        id=identity or str(uuid.uuid4()), type=type_name, data=data, at_us=START_US, tenant="default", actor="user:a"
    )


def numbered(first: int, count: int) -> list[NewEvent]:
    """Events whose data is their number."""
    return [new_event(b'{"n":%d}' % number) for number in range(first, first + count)]


async def all_events(log: EventLog, *, after: int = 0, stream: str | None = None) -> list[Recorded]:
    return [event async for page in log.read(after=after, stream=stream) for event in page.events]


async def tailed(log: EventLog, count: int, *, after: int = 0, stream: str | None = None) -> list[Recorded]:
    """The next so many events, waited for."""
    events: list[Recorded] = []
    pages = log.tail(after=after, stream=stream)
    try:
        while len(events) < count:
            events += (await anext(pages)).events
    finally:
        await pages.aclose()
    return events

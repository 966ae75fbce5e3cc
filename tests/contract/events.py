"""Events to append, and all that a log holds."""

import uuid

from eventstore.contract import EventLog
from runfold.envelope import NewEvent, Recorded
from runfold.events import Message, RunCompleted, RunQueued, RunStarted, TokenUsage, encode_data

START_US = 1_700_000_000_000_000
SECRET = "hunter2-swordfish"


def new_event(data: bytes = b"{}", *, identity: str | None = None, type_name: str = "note_added") -> NewEvent:
    return NewEvent(
        id=identity or str(uuid.uuid4()), type=type_name, data=data, at_us=START_US, tenant="default", actor="user:a"
    )


def numbered(first: int, count: int) -> list[NewEvent]:
    """Events whose data is their number."""
    return [new_event(b'{"n":%d}' % number) for number in range(first, first + count)]


def run(*, ended: bool = True) -> list[NewEvent]:
    """The events of a run that says the secret."""
    events: list[NewEvent] = [
        new_event(encode_data(RunQueued(title="t", driver="reported")), type_name="run_queued"),
        new_event(encode_data(RunStarted()), type_name="run_started"),
        new_event(encode_data(Message(text=f"I use {SECRET} here")), type_name="message"),
        new_event(encode_data(TokenUsage(input_tokens=5, cost_micros=7)), type_name="token_usage"),
    ]
    return [*events, new_event(encode_data(RunCompleted(reason_code="REPORTED")), type_name="run_completed")][
        : 5 if ended else 4
    ]


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

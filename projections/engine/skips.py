"""Bad events that a person let a view leave out: facts of the system stream, so live views and rebuilt ones agree."""

import msgspec

from eventstore.contract import EventLog
from eventstore.reading import bounds, read_page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, NewEvent, derived_id
from runfold.errors import Conflict, Contended
from runfold.events import ViewEventSkipped, encode_data, event_type

TRIES = 5
_NAMESPACE = "0b6a2f52-6f3e-5f0b-8a55-3c4d7b0f9e21"
_TYPE = event_type(ViewEventSkipped(view="", position=0))
_decode = msgspec.json.Decoder(ViewEventSkipped).decode


class Skips:
    """The recorded skips of one log, read as far as they are asked for."""

    def __init__(self, log: sqlite3.Connection) -> None:
        self._log = log
        self._after = 0
        self._known: set[tuple[str, int]] = set()

    def holds(self, view: str, position: int) -> bool:
        """Whether the view is to leave out the event at a position."""
        head = bounds(self._log)
        while self._after < head.last:
            page = read_page(self._log, after=self._after, stream=SYSTEM_STREAM, upto=head.last, kept=True)
            for recorded in page.events:
                if recorded.type == _TYPE and recorded.data:
                    skip = _decode(recorded.data)
                    self._known.add((skip.view, skip.position))
            self._after = page.scanned_to
        return (view, position) in self._known


async def record_skip(log: EventLog, skip: ViewEventSkipped, *, actor: str, at_us: int) -> None:
    """Record that a view leaves out an event; a second time changes nothing. Raises Contended."""
    new = NewEvent(
        id=derived_id(_NAMESPACE, f"{skip.view} {skip.position}"),
        type=_TYPE,
        data=encode_data(skip),
        at_us=at_us,
        tenant="*",
        actor=actor,
    )
    for _ in range(TRIES):
        last = await log.last(SYSTEM_STREAM)
        try:
            await log.append(SYSTEM_STREAM, [new], expected=0 if last is None else last.position)
            return
        except Conflict:
            continue
    raise Contended(f"others wrote to `{SYSTEM_STREAM}` {TRIES} times meanwhile", hint="try again")

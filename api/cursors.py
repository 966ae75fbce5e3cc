"""Where a reader stands in the log, written `<position>-<8 hex of the hash>`, and whether this log agrees."""

import re

import msgspec

from eventstore.contract import EventLog
from runfold.envelope import Recorded
from runfold.errors import BadRequest, Diverged, Trimmed

_CURSOR = re.compile(r"([0-9]{1,16})(?:-([0-9a-f]{8}))?", re.ASCII)
_POSITION_MAX = 2**53


class Cursor(msgspec.Struct, frozen=True):
    position: int
    hash_head: str | None = None


def parse_cursor(text: str) -> Cursor:
    match = _CURSOR.fullmatch(text)
    if match is None or int(match[1]) > _POSITION_MAX:
        raise BadRequest("that is not a cursor", hint="a cursor is the `id:` of a frame, or a position")
    return Cursor(int(match[1]), match[2])


async def check_cursor(log: EventLog, cursor: Cursor, *, run_id: str | None = None) -> Cursor:
    """Where to go on from. Raises Trimmed, Diverged where the log has no such place.

    A bare position at or below the head is believed. The beginning is always a place, whatever was trimmed; and a run
    that is there is there whole, so its readers lose nothing when other runs are trimmed.
    """
    bounds = await log.bounds()
    hint = f"`GET /api/runs/{run_id}` tells the present state" if run_id else "`GET /api/runs` tells the present state"
    if cursor.position > bounds.last:
        raise Diverged("the cursor is beyond the end of this log", earliest=bounds.first, hint=hint, run_id=run_id)
    if cursor.position < bounds.first - 1:
        if cursor.position and run_id is None:
            raise Trimmed("what comes after the cursor is not all kept any more", earliest=bounds.first, hint=hint)
        return Cursor(bounds.first - 1) if run_id is None else cursor
    if cursor.hash_head is None or cursor.position == 0:
        return cursor
    event = await event_at(log, cursor.position)
    if event is None or event.hash[:4].hex() != cursor.hash_head:
        raise Diverged("the cursor is of another log", earliest=bounds.first, hint=hint, run_id=run_id)
    return cursor


async def event_at(log: EventLog, position: int) -> Recorded | None:
    async for page in log.read(after=position - 1, upto=position):
        for event in page.events:
            if event.position == position:
                return event
    return None

"""A run as it was: the fold of what the log held at a position or at a time, by the same rules as the run of now."""

import re
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from eventstore.contract import EventLog
from eventstore.reading import read_page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded, moment_us
from runfold.errors import BadRequest, Diverged, NotFound
from runfold.evolve import fold
from runfold.state import Run, new_run

_POSITION_MAX = 2**53
_NUMBER = re.compile(r"(v?)([0-9]{1,16})", re.ASCII)


class At(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a run, its event included; with nothing given it is now. A time is when the log recorded an event."""

    position: int | None = None
    version: int | None = None
    recorded_at_us: int | None = None

    def holds(self, event: Recorded) -> bool:
        return (
            (self.position is None or event.position <= self.position)
            and (self.version is None or event.version <= self.version)
            and (self.recorded_at_us is None or event.recorded_at_us <= self.recorded_at_us)
        )


def parse_at(text: str) -> At:
    """A position, `v` and the number of an event of the run, or a time as `moment_us` takes it. Raises BadRequest."""
    number = _NUMBER.fullmatch(text)
    if number is not None and int(number[2]) <= _POSITION_MAX:
        return At(version=int(number[2])) if number[1] else At(position=int(number[2]))
    try:
        return At(recorded_at_us=moment_us(text))
    except (ValueError, OverflowError):
        raise BadRequest(
            f"`{ascii(text[:80])[1:-1]}` is no position, no `v` and a number, and no time",
            hint="for example 1234, v7, 2026-01-31, or 2026-01-31T12:00:00Z with its zone",
        ) from None


def run_at(connection: sqlite3.Connection, run_id: str, at: At, *, tenant: str | None = None) -> tuple[Run, int]:
    """The run and the position of its last event, from a connection to the log. Raises NotFound, Diverged."""
    past = _Past(run_id, at, tenant)
    after = 0
    while not past.is_reached:
        page = read_page(connection, after=after, stream=run_id, upto=at.position)
        past.add(page.events)
        if not page.events:
            break
        after = page.scanned_to
    return past.found()


async def state_at(log: EventLog, run_id: str, at: At, *, tenant: str | None = None) -> tuple[Run, int]:
    """The same from any log."""
    past = _Past(run_id, at, tenant)
    async with aclosing(log.read(stream=run_id, upto=at.position)) as pages:
        async for page in pages:
            past.add(page.events)
            if past.is_reached:
                break
    return past.found()


def not_there_yet(run_id: str) -> NotFound:
    return NotFound(f"run `{run_id}` was not there yet", hint="choose a later moment", run_id=run_id)


class _Past:
    def __init__(self, run_id: str, at: At, tenant: str | None) -> None:
        self._at = at
        self._tenant = tenant
        self._run = new_run(run_id)
        self._position = 0
        self.is_reached = False

    def add(self, events: Sequence[Recorded]) -> None:
        held = [event for event in events if self._at.holds(event)]
        self.is_reached = len(held) < len(events)
        if held:
            self._run, self._position = fold(self._run, held), held[-1].position

    def found(self) -> tuple[Run, int]:
        run = self._run
        if run.version == 0 or (self._tenant is not None and run.tenant != self._tenant):
            raise not_there_yet(run.run_id)
        if self._at.version is not None and self._at.version > run.version:
            raise Diverged(
                f"run `{run.run_id}` ends at version {run.version}",
                hint=f"`runfold status {run.run_id}` shows the run as it is now",
                run_id=run.run_id,
            )
        return run, self._position

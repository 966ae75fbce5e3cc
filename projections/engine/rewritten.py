"""Runs whose earlier events are no longer what they were: what is folded of them is folded anew."""

from collections.abc import Iterator, Sequence
from operator import attrgetter

from eventstore.facts import read_facts
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.errors import Trimmed
from runfold.events import REWRITES, RunArchived

_type_of = attrgetter("type")


def rewritten_runs(events: Sequence[Fact], *, is_trimmed: bool) -> list[str]:
    """The runs of which one of these events says so, each once."""
    if not is_trimmed and REWRITES.isdisjoint(map(_type_of, events)):
        return []
    found: dict[str, None] = {}
    for recorded in events:
        if recorded.type in REWRITES:
            event = recorded.event() if recorded.run_id == SYSTEM_STREAM else None
            found[event.run_id if isinstance(event, RunArchived) else recorded.run_id] = None
        elif recorded.version == 1 and is_trimmed:
            # It may have come back from an archive, and then stands in the views as its summary.
            found[recorded.run_id] = None
    found.pop(SYSTEM_STREAM, None)
    return list(found)


def pages_before(log: sqlite3.Connection | None, run_id: str, position: int) -> Iterator[Sequence[Fact]]:
    """The run's events before a position, as they are now."""
    after = 0
    while log is not None and after < position - 1:
        try:
            facts, after = read_facts(log, after=after, stream=run_id, upto=position - 1)
        except Trimmed:
            return  # Its summary is all that is left.
        if facts:
            yield facts

"""Runs whose earlier events are no longer what they were: what is folded of them is folded anew."""

from collections.abc import Iterable, Iterator, Sequence

from eventstore.reading import read_page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, Recorded
from runfold.events import REWRITES


def rewritten_runs(events: Iterable[Recorded]) -> list[str]:
    """The runs of which one of these events says so, each once."""
    found = {recorded.run_id: None for recorded in events if recorded.type in REWRITES}
    found.pop(SYSTEM_STREAM, None)
    return list(found)


def pages_before(log: sqlite3.Connection | None, run_id: str, position: int) -> Iterator[Sequence[Recorded]]:
    """The run's events before a position, as they are now."""
    after = 0
    while log is not None and after < position - 1:
        page = read_page(log, after=after, stream=run_id, upto=position - 1)
        if page.events:
            yield page.events
        after = page.scanned_to

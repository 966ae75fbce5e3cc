"""Where in the audit to look: the blocks that hold a kind, the positions of runs, and those of each day."""

from collections.abc import Generator, Iterator, Sequence
from heapq import merge
from itertools import groupby

from eventstore.places import first_since, places_in, recorded_from
from eventstore.sqlite3_module import sqlite3

DAY_US = 86_400_000_000


def blocks_of(
    connection: sqlite3.Connection, kinds: Sequence[int], first: int, last: int, *, is_descending: bool
) -> Generator[int]:
    """The blocks `first` to `last` that hold an event of one of these kinds, in order."""
    order = _order(is_descending)
    query = f"SELECT block FROM audit_blocks WHERE kind = ? AND block BETWEEN ? AND ? ORDER BY block {order}"  # noqa: S608
    found = [connection.execute(query, (kind, first, last)) for kind in kinds]
    yield from _merged(found, is_descending=is_descending)


def places_of(
    connection: sqlite3.Connection,
    log: sqlite3.Connection,
    runs: Sequence[str],
    first: int,
    last: int,
    *,
    is_descending: bool,
) -> Generator[int]:
    """The positions `first` to `last` of what these runs said, and the system stream about them, in order."""
    about = f"""SELECT position FROM audit_about WHERE run = (SELECT name_id FROM audit_runs WHERE name = ?)
        AND position BETWEEN ? AND ? ORDER BY position {_order(is_descending)}"""  # noqa: S608
    said = [places_in(log, run, first, last, is_descending=is_descending) for run in runs]
    told = [connection.execute(about, (run, first, last)) for run in runs]
    yield from _merged([*said, *told], is_descending=is_descending)


def days_of(log: sqlite3.Connection | None, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """The days since 1970 in UTC on which the log recorded a position from `first` to `last`, each with its share."""
    while log is not None and (found := recorded_from(log, first)) is not None and found[0] <= last:
        day = found[1] // DAY_US
        following = first_since(log, (day + 1) * DAY_US)
        yield day, first, min(last, following - 1)
        first = following


def _order(is_descending: bool) -> str:
    return "DESC" if is_descending else "ASC"


def _merged(found: Sequence[sqlite3.Cursor | Generator[tuple[int]]], *, is_descending: bool) -> Generator[int]:
    """Each number once."""
    try:
        for (number,), _ in groupby(merge(*found, reverse=is_descending)):
            yield number
    finally:
        for each in found:
            each.close()

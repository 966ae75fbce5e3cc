"""Where in the log something stands: what a run said, and what was recorded at a time."""

from collections.abc import Generator, Sequence
from contextlib import closing

from eventstore.blocks import BETWEEN, OF_RUN
from eventstore.damage import telling_damage, told_as_damage
from eventstore.sqlite3_module import sqlite3
from runfold.events import REWRITES


def places_in(
    connection: sqlite3.Connection, stream: str, first: int, last: int, *, is_descending: bool
) -> Generator[tuple[int]]:
    """The positions `first` to `last` of one run's events, a row each, in order. Raises Damaged."""
    order = "DESC" if is_descending else "ASC"
    query = f"SELECT position FROM {OF_RUN} WHERE {BETWEEN} ORDER BY block {order}, version {order}"  # noqa: S608
    with telling_damage(), closing(connection.execute(query, (stream, first - 1, last))) as rows:
        yield from rows


@told_as_damage
def place_of_end(connection: sqlite3.Connection, stream: str) -> int | None:
    """The position of the last event that a run ever had, kept or not; None where it had none."""
    row = connection.execute("SELECT position FROM heads WHERE run_id = ?", (stream,)).fetchone()
    return None if row is None else int(row[0])


@told_as_damage
def runs_with(connection: sqlite3.Connection, types: Sequence[str], *, after: int, upto: int) -> list[str]:
    """The runs of which events of some types stand in a stretch of the log, in the order of the last of each."""
    query = (
        "SELECT run_id FROM events WHERE position > ? AND position <= ?"  # noqa: S608
        f" AND type IN ({', '.join('?' * len(types))}) GROUP BY run_id ORDER BY max(position)"
    )
    return [run_id for (run_id,) in connection.execute(query, (after, upto, *types)).fetchall()]


@told_as_damage
def last_rewritten(connection: sqlite3.Connection, *, after: int) -> int:
    """Where an event after a position says that earlier ones are not what they were; 0 where none does."""
    query = f"SELECT max(position) FROM events WHERE position > ? AND type IN ({', '.join('?' * len(REWRITES))})"  # noqa: S608
    position: int | None = connection.execute(query, (after, *sorted(REWRITES))).fetchone()[0]
    return position or 0


@told_as_damage
def first_since(connection: sqlite3.Connection, moment_us: int) -> int:
    """The first position recorded at that time or later: the log's times never go back, so halving finds it."""
    low, high = 0, connection.execute("SELECT COALESCE(max(position), 0) + 1 FROM events").fetchone()[0]
    while low + 1 < high:
        middle = (low + high) // 2
        found = recorded_from(connection, middle)
        if found is not None and found[1] < moment_us:
            low = middle
        else:
            high = middle
    return int(high)


@told_as_damage
def recorded_from(connection: sqlite3.Connection, position: int) -> tuple[int, int] | None:
    """The first event that is kept from a position on: where it stands, and when it was recorded."""
    query = "SELECT position, recorded_at_us FROM events WHERE position >= ? ORDER BY position LIMIT 1"
    found: tuple[int, int] | None = connection.execute(query, (position,)).fetchone()
    return found

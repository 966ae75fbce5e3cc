"""Events by the UUIDs they are known by: the schema has an index for those that follow time, and one for the others."""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from eventstore.rows import COLUMNS, Row, in_parts
from eventstore.sqlite3_module import sqlite3

Pair: TypeAlias = tuple[str, bytes]
"""A run, and an id within it."""


def known_pairs(connection: sqlite3.Connection, pairs: Sequence[Pair]) -> list[Pair]:
    """Those of the pairs that the log has an event of."""
    known: list[Pair] = []
    for condition, part in _by_index("id", pairs):
        for size, values in in_parts(part):
            marks = ", ".join(["(?, ?)"] * size)
            query = f"SELECT run_id, id FROM events WHERE (run_id, id) IN (VALUES {marks}) AND {condition}"  # noqa: S608
            known += connection.execute(query, values).fetchall()
    return known


def rows_of(
    connection: sqlite3.Connection, run_id: str, column: Literal["id", "command"], ids: Sequence[bytes]
) -> list[Row]:
    """The rows of a run's events that have one of these ids, or commands, in no order."""
    rows: list[Row] = []
    for condition, part in _by_index(column, [(run_id, id) for id in ids]):
        marks = ", ".join("?" * len(part))
        query = f"SELECT {COLUMNS} FROM events WHERE run_id = ? AND {column} IN ({marks}) AND {condition}"  # noqa: S608
        rows += connection.execute(query, (run_id, *(id for _, id in part))).fetchall()
    return rows


def _by_index(column: str, pairs: Sequence[Pair]) -> Iterator[tuple[str, list[Pair]]]:
    """The pairs that are in the same index, and the condition of that index, without which SQLite does not take it."""
    # The version of a UUID is in its seventh byte (RFC 9562, section 4.2).
    for comparison, follows_time in ((">=", True), ("<", False)):
        part = [pair for pair in pairs if (pair[1][6] >= 0x70) is follows_time]
        if part:
            yield f"substr({column}, 7, 1) {comparison} x'70'", part

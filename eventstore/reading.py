"""Reading the log with plain functions over a read-only connection: pages, bounds, the last event, events by id."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from eventstore.blocks import BETWEEN, OF_RUN, UPTO, VERSION_AT
from eventstore.columns import Columns
from eventstore.contract import APPEND_EVENTS_MAX, PAGE_EVENTS, Bounds, Page
from eventstore.damage import is_undecoded, told_as_damage
from eventstore.identified import rows_of
from eventstore.log_file import Checking, Reader
from eventstore.moment import at_one_moment
from eventstore.rows import COLUMNS, Row, recorded_of, uuid_bytes
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, Recorded
from runfold.errors import BadRequest, Damaged, Diverged, Trimmed

ROW_BYTES = 1024  # About what a row costs in memory beside its data.
_DATA = COLUMNS.split(", ").index("data")


@told_as_damage
@at_one_moment
def read_page(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    stream: str | None = None,
    upto: int | None = None,
    limit: int = PAGE_EVENTS,
    size_bytes: int | None = None,
    kept: bool = False,
) -> Page:
    """The next events after a position, up to the head or `upto`, and no more once `size_bytes` are reached.

    What is trimmed of other streams takes nothing from a stream that is whole; `kept`: whoever knows what to make of
    summaries reads what is left below the trimmed start. Raises Trimmed, Diverged, Damaged.
    """
    end = end_of(connection, after=after, stream=stream, upto=upto, kept=kept)
    try:
        found = rows_after(connection, after=after, stream=stream, end=end, limit=limit)
        rows = found.fetchall() if size_bytes is None else _rows_upto(found, size_bytes)
        is_cut = len(rows) == limit or found.fetchone() is not None
        found.close()
    except sqlite3.DatabaseError as error:
        name_undecoded(connection, error, after=after, stream=stream, end=end, limit=limit)
        raise
    scanned_to = rows[-1][0] if rows and is_cut else end
    positions = [row[0] for row in rows]
    check_page(connection, positions, rows[-1][2] if rows else None, after=after, stream=stream, upto=scanned_to)
    return Page(events=tuple(recorded_of(row) for row in rows), scanned_to=scanned_to, is_full=bool(rows) and is_cut)


def name_undecoded(
    connection: sqlite3.Connection,
    error: sqlite3.DatabaseError,
    *,
    after: int,
    stream: str | None,
    end: int,
    limit: int,
) -> None:
    """Where rows hold a text that is none, their check says which: only an altered file has such. Raises Damaged."""
    checks = checking_of(connection)
    if checks is not None and is_undecoded(error):
        rows = rows_after(connection, after=after, stream=stream, end=end, limit=limit, columns="position")
        checks.check(connection, [position for (position,) in rows.fetchall()])


def checking_of(connection: sqlite3.Connection) -> Checking | None:
    """What looks at the events that this connection reads."""
    return connection.checks if isinstance(connection, Reader) else None


def check_page(
    connection: sqlite3.Connection,
    positions: Sequence[int],
    last_version: int | None,
    *,
    after: int,
    stream: str | None,
    upto: int,
) -> None:
    """See that a page, read up to a position, has what was appended, all of it, and nothing else. Raises Damaged."""
    checks = checking_of(connection)
    if checks is None:
        return
    checks.check(connection, positions)
    if stream is None:
        checks.check_whole(connection, positions, after, upto)
        return
    if positions and last_version is not None:
        checks.check_versions(connection, stream, positions, last_version, after)
    if not positions or positions[-1] != upto:
        version = version_at(connection, stream, after) if last_version is None else last_version
        checks.check_end(connection, stream, version, upto)


def is_checked(connection: sqlite3.Connection, position: int) -> bool:
    """Whether nobody would look at the event at a position any more."""
    checks = checking_of(connection)
    return checks is None or checks.knows(position)


def check_columns(connection: sqlite3.Connection, columns: Columns) -> None:
    """Check many events at once, as they were read. Where they are not sound, the page that holds them tells."""
    checks = checking_of(connection)
    if checks is not None:
        with suppress(Damaged):
            checks.check(connection, columns.positions, columns)


@told_as_damage
@at_one_moment
def check_next(connection: sqlite3.Connection, *, after: int, upto: int, limit: int = PAGE_EVENTS) -> int:
    """As reading the next page of all runs that are kept, for who only wants it checked: how far it was.

    Raises Diverged, Damaged.
    """
    end = end_of(connection, after=after, stream=None, upto=upto, kept=True)
    rows = rows_after(connection, after=after, stream=None, end=end, limit=limit, columns="position").fetchall()
    positions = [row[0] for row in rows]
    scanned_to = positions[-1] if len(positions) == limit else end
    check_page(connection, positions, None, after=after, stream=None, upto=scanned_to)
    return scanned_to


@told_as_damage
def hash_at(connection: sqlite3.Connection, position: int) -> bytes | None:
    """The hash of the event at a position; None where there is none."""
    row = connection.execute("SELECT hash FROM events WHERE position = ?", (position,)).fetchone()
    return None if row is None else row[0]


def end_of(
    connection: sqlite3.Connection, *, after: int, stream: str | None, upto: int | None = None, kept: bool = False
) -> int:
    """How far a page after a position may look now. Raises Trimmed, Diverged."""
    head = bounds(connection)
    # The system stream is never trimmed: what is missing was taken by hand, and who reads it goes on with the rest.
    is_kept = kept or stream == SYSTEM_STREAM
    if after < head.first - 1 and not is_kept and (stream is None or not _is_whole(connection, stream)):
        raise _trimmed(connection, stream, head)
    if after > head.last:
        raise Diverged(
            f"position {after} is beyond the log's head {head.last}",
            earliest=head.first,
            hint="the cursor is from another log, or this one was restored; read the snapshot and start anew",
        )
    # The head is read before the events, so a page never claims to have looked further than it did.
    return head.last if upto is None else max(after, min(upto, head.last))


def rows_after(
    connection: sqlite3.Connection, *, after: int, stream: str | None, end: int, limit: int, columns: str = COLUMNS
) -> sqlite3.Cursor:
    """The rows after a position up to `end`, in order."""
    if stream is None:
        return connection.execute(
            f"SELECT {columns} FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",  # noqa: S608
            (after, end, limit),
        )
    return connection.execute(
        f"SELECT {columns} FROM {OF_RUN} WHERE {BETWEEN} ORDER BY block, version LIMIT ?4",  # noqa: S608
        (stream, after, end, limit),
    )


def _is_whole(connection: sqlite3.Connection, stream: str) -> bool:
    """A stream is trimmed whole or not at all: its first event tells, and of an unknown one nothing is missing."""
    query = (
        f"SELECT EXISTS (SELECT 1 FROM {OF_RUN} WHERE run_id = ?1 AND version = 1)"  # noqa: S608
        " OR NOT EXISTS (SELECT 1 FROM heads WHERE run_id = ?1)"
    )
    return bool(connection.execute(query, (stream,)).fetchone()[0])


def _trimmed(connection: sqlite3.Connection, stream: str | None, head: Bounds) -> Trimmed:
    archived = None if stream is None else _archive_of(connection, stream)
    if archived is None:
        return Trimmed(
            f"events up to position {head.first - 1} are no longer kept",
            earliest=head.first,
            hint=f"read the snapshot, then go on after {head.first - 1}",
        )
    return Trimmed(
        f"the events of run `{stream}` were trimmed from the log; its summary is kept",
        earliest=head.first,
        hint=f"`runfold import {archived[0]}`, in the data folder, brings them back",
        run_id=stream,
        tenant=archived[1],
    )


def _archive_of(connection: sqlite3.Connection, stream: str) -> tuple[str, str] | None:
    """The file that a trimmed run was last archived in, and its tenant, where the log tells of it."""
    query = (
        "SELECT json_extract(CAST(data AS TEXT), '$.archive'), tenant"  # noqa: S608
        f" FROM {OF_RUN}"
        " WHERE run_id = ? AND type = 'run_archived' AND data IS NOT NULL"
        " AND json_extract(CAST(data AS TEXT), '$.run_id') = ? ORDER BY block DESC, version DESC LIMIT 1"
    )
    row = connection.execute(query, (SYSTEM_STREAM, stream)).fetchone()
    return (row[0], row[1]) if row is not None and row[0] else None


def _rows_upto(found: sqlite3.Cursor, size_bytes: int) -> list[Row]:
    """Rows until they hold so many bytes; at least one where there is one."""
    rows: list[Row] = []
    for row in found:
        rows.append(row)
        size_bytes -= ROW_BYTES + len(row[_DATA] or b"")
        if size_bytes <= 0:
            break
    return rows


def version_at(connection: sqlite3.Connection, stream: str, position: int) -> int:
    """The version of the stream's last event up to a position; 0 where it has none."""
    if position <= 0:
        return 0
    return int(connection.execute(f"SELECT {VERSION_AT}", (stream, position)).fetchone()[0])


def _last_upto(connection: sqlite3.Connection, stream: str, position: int) -> tuple[int, int]:
    """The position and the version of the stream's last event up to a position; zeros where it has none."""
    query = f"SELECT position, version FROM {OF_RUN} WHERE {UPTO} ORDER BY block DESC, version DESC LIMIT 1"  # noqa: S608
    row: tuple[int, int] | None = connection.execute(query, (stream, position)).fetchone()
    return (0, 0) if row is None else row


@told_as_damage
def position_of(connection: sqlite3.Connection, stream: str, version: int) -> int | None:
    """The position of the stream's event of that number; None where it has none."""
    row = connection.execute("SELECT position FROM heads WHERE run_id = ?", (stream,)).fetchone()
    low, high = 0, 0 if row is None or version < 1 else row[0] + 1
    # Versions rise with positions: halving finds the place in any run.
    while low + 1 < high:
        middle = (low + high) // 2
        position, found = _last_upto(connection, stream, middle)
        if found == version:
            return position
        if found < version:
            low = middle
        else:
            high = position
    return None


@told_as_damage
def bounds(connection: sqlite3.Connection) -> Bounds:
    position, trimmed_to, log_id = connection.execute("SELECT position, trimmed_to, log_id FROM head").fetchone()
    return Bounds(first=trimmed_to + 1, last=position, log_id=log_id)


@told_as_damage
@at_one_moment
def last(connection: sqlite3.Connection, stream: str) -> Recorded | None:
    head = connection.execute("SELECT position, version FROM heads WHERE run_id = ?", (stream,)).fetchone()
    if head is None:
        return None
    row = connection.execute(
        f"SELECT {COLUMNS} FROM events WHERE position = ? AND run_id = ?",  # noqa: S608
        (head[0], stream),
    ).fetchone()
    check_page(
        connection,
        [] if row is None else [row[0]],
        0 if row is None else row[2],
        after=head[0] - 1,
        stream=stream,
        # Not a step further: what another has appended since is not looked at here.
        upto=head[0],
    )
    return None if row is None else recorded_of(row)


def ids_beginning(connection: sqlite3.Connection, prefix: str, *, limit: int) -> list[str]:
    """The streams whose names begin with this text, the one that moved last first."""
    rows = connection.execute(
        """SELECT run_id FROM heads WHERE run_id >= ?1 AND run_id < ?1 || char(1114111)
        ORDER BY position DESC LIMIT ?2""",
        (prefix, limit),
    ).fetchall()
    return [run_id for (run_id,) in rows]


@told_as_damage
@at_one_moment
def find(
    connection: sqlite3.Connection, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()
) -> tuple[Recorded, ...]:
    """The stream's events with one of these ids, or made by one of these commands, in order."""
    found: dict[int, Row] = {}
    asked: tuple[tuple[Literal["id", "command"], Sequence[str]], ...] = (("id", ids), ("command", commands))
    for column, names in asked:
        if len(names) > APPEND_EVENTS_MAX:
            raise BadRequest(f"{len(names)} ids looked up at once, at most {APPEND_EVENTS_MAX}")
        for row in rows_of(connection, stream, column, [uuid_bytes(text) for text in names]):
            found[row[0]] = row
    checks = checking_of(connection)
    if checks is not None:
        checks.check(connection, sorted(found))
    return tuple(recorded_of(found[position]) for position in sorted(found))


@told_as_damage
@at_one_moment
def read_at(connection: sqlite3.Connection, positions: Sequence[int]) -> dict[int, Recorded]:
    """The events at these positions that are kept, by position. Raises Damaged."""
    if len(positions) > PAGE_EVENTS:
        raise BadRequest(f"{len(positions)} events looked up at once, at most {PAGE_EVENTS}")
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM events WHERE position IN (SELECT value FROM json_each(?))",  # noqa: S608
        (f"[{','.join(map(str, positions))}]",),
    ).fetchall()
    found = {row[0]: recorded_of(row) for row in rows}
    checks = checking_of(connection)
    if checks is not None:
        checks.check(connection, sorted(found))
    return found


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection, of any process, has committed."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version

"""Reading the log with plain functions over a read-only connection: pages, bounds, the last event, events by id."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, overload

from eventstore.contract import APPEND_EVENTS_MAX, PAGE_EVENTS, Bounds, Page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Fact, Recorded
from runfold.errors import BadRequest, Diverged, NotFound, Trimmed, Unavailable

APPLICATION_ID = 0x52554E46
USER_VERSION = 1
BUSY_TIMEOUT_MS = 5000
LOG_FILE = "log.db"
FACTS_TOGETHER = 64  # So few that the processor still has them at hand when they are folded: a fifth of the time.
ROW_BYTES = 1024  # About what a row costs in memory beside its data.

COLUMNS = (
    "position, run_id, version, id, type, schema, at_us, recorded_at_us, tenant, actor,"
    " cause, command, sent, correlation, hash, data, salt"
)
_DATA = COLUMNS.split(", ").index("data")
FACT_COLUMNS = ", ".join(Fact.__struct_fields__)
_FACT_COLUMNS_WITHOUT_IDS = FACT_COLUMNS.replace("id, cause, command", "x'' AS id, NULL AS cause, NULL AS command")
Row: TypeAlias = tuple[Any, ...]


class Checking(Protocol):
    """What looks at events before they are given to a reader, see `eventstore.proof.checking`. Raises Damaged."""

    def check(self, connection: sqlite3.Connection, positions: Sequence[int]) -> None: ...

    def check_whole(self, connection: sqlite3.Connection, positions: Sequence[int], after: int, end: int) -> None: ...

    def check_end(self, connection: sqlite3.Connection, stream: str, version: int, end: int) -> None: ...


class Reader(sqlite3.Connection):
    """A connection whose events are checked, where there is something that checks them."""

    checks: Checking | None = None


def open_reader(data: Path, checks: Checking | None = None) -> sqlite3.Connection:
    """A connection that can only read the log of a data folder. Raises NotFound, BadRequest, Unavailable."""
    path = data / LOG_FILE
    if not path.exists():
        raise NotFound(
            f"no log in `{data}`", hint="`runfold run -- COMMAND` starts one; or name its folder with --data"
        )
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, factory=Reader)
    connection.checks = checks
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        if not check_file(connection, path):
            raise NotFound(f"the log in `{data}` is empty", hint="`runfold run -- COMMAND` starts it")
    except sqlite3.OperationalError as error:
        connection.close()
        raise Unavailable(
            f"the log in `{data}` cannot be read: {error}",
            hint="free or repair the disk; nothing was changed, and what was acknowledged is kept",
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def check_file(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is a log of ours (True) or still empty (False). Raises BadRequest for any other file."""
    try:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        user_version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise BadRequest(f"`{path}` is not a SQLite file", hint="choose another data folder") from error
    if application_id == 0 and tables == 0:
        return False
    if application_id != APPLICATION_ID:
        raise BadRequest(f"`{path}` belongs to another program", hint="choose another data folder")
    if user_version > USER_VERSION:
        raise BadRequest(
            f"`{path}` is of a newer runfold (format {user_version}, known {USER_VERSION})", hint="upgrade runfold"
        )
    if user_version < USER_VERSION:
        # There is no older format yet. Whoever raises USER_VERSION brings the old one forward here, or says how.
        raise BadRequest(
            f"`{path}` is of an older runfold (format {user_version}, known {USER_VERSION})",
            hint="export its runs with the runfold that wrote it, and `runfold import` them into another data folder",
        )
    return True


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
    summaries reads what is left below the trimmed start. Raises Trimmed, Diverged.
    """
    end = end_of(connection, after=after, stream=stream, upto=upto, kept=kept)
    found = rows_after(connection, after=after, stream=stream, end=end, limit=limit)
    rows = found.fetchall() if size_bytes is None else _rows_upto(found, size_bytes)
    is_cut = len(rows) == limit or found.fetchone() is not None
    found.close()
    scanned_to = rows[-1][0] if rows and is_cut else end
    positions = [row[0] for row in rows]
    check_page(connection, positions, rows[-1][2] if rows else None, after=after, stream=stream, upto=scanned_to)
    return Page(events=tuple(recorded_of(row) for row in rows), scanned_to=scanned_to, is_full=bool(rows) and is_cut)


def _checks_of(connection: sqlite3.Connection) -> Checking | None:
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
    checks = _checks_of(connection)
    if checks is None:
        return
    checks.check(connection, positions)
    if stream is None:
        checks.check_whole(connection, positions, after, upto)
    elif not positions or positions[-1] != upto:
        version = version_at(connection, stream, after) if last_version is None else last_version
        checks.check_end(connection, stream, version, upto)


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


def read_facts(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    stream: str | None = None,
    upto: int | None = None,
    limit: int = PAGE_EVENTS,
    kept: bool = False,
) -> tuple[list[Fact], int]:
    """As `read_page`, for folds: the next facts, and how far was looked. Raises Trimmed, Diverged."""
    end = end_of(connection, after=after, stream=stream, upto=upto, kept=kept)
    rows = rows_after(connection, after=after, stream=stream, end=end, limit=limit, columns=FACT_COLUMNS).fetchall()
    facts = [Fact(*row) for row in rows]
    scanned_to = facts[-1].position if len(facts) == limit else end
    if _checks_of(connection) is not None:
        positions = [fact.position for fact in facts]
        last_version = facts[-1].version if facts else None
        check_page(connection, positions, last_version, after=after, stream=stream, upto=scanned_to)
    return facts, scanned_to


def some_facts(
    connection: sqlite3.Connection,
    *,
    after: int,
    upto: int,
    limit: int,
    without: Sequence[str] = (),
    with_ids: bool = True,
) -> Iterator[list[Fact]]:
    """The next facts of all runs that are kept, a few at a time: no other reading waits until this one is closed.

    Where they are checked they come as one page, and whole; else `without` some types, and with empty ids where nobody
    asks for them. Raises Diverged, Damaged.
    """
    if _checks_of(connection) is not None:
        yield read_facts(connection, after=after, upto=upto, limit=limit, kept=True)[0]
        return
    end = end_of(connection, after=after, stream=None, upto=upto, kept=True)
    columns = FACT_COLUMNS if with_ids else _FACT_COLUMNS_WITHOUT_IDS
    rows = connection.execute(
        f"SELECT {columns} FROM events WHERE position > ? AND position <= ?"  # noqa: S608
        f" AND type NOT IN ({', '.join('?' * len(without))}) ORDER BY position LIMIT ?",
        (after, end, *without, limit),
    )
    try:
        while some := rows.fetchmany(FACTS_TOGETHER):
            yield [Fact(*row) for row in some]
    finally:
        rows.close()


def hash_at(connection: sqlite3.Connection, position: int) -> bytes | None:
    """The hash of the event at a position; None where there is none."""
    row = connection.execute("SELECT hash FROM events WHERE position = ?", (position,)).fetchone()
    return None if row is None else row[0]


def end_of(
    connection: sqlite3.Connection, *, after: int, stream: str | None, upto: int | None = None, kept: bool = False
) -> int:
    """How far a page after a position may look now. Raises Trimmed, Diverged."""
    head = bounds(connection)
    if after < head.first - 1 and not kept and (stream is None or not _is_whole(connection, stream)):
        raise Trimmed(
            f"events up to position {head.first - 1} are no longer kept",
            earliest=head.first,
            hint=f"read the snapshot, then go on after {head.first - 1}",
        )
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
        f"SELECT {columns} FROM events WHERE run_id = ? AND version > ? AND position <= ? ORDER BY version LIMIT ?",  # noqa: S608
        (stream, version_at(connection, stream, after), end, limit),
    )


def _is_whole(connection: sqlite3.Connection, stream: str) -> bool:
    """A stream is trimmed whole or not at all: its first event tells, and of an unknown one nothing is missing."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM events WHERE run_id = ?1 AND version = 1)"
        " OR NOT EXISTS (SELECT 1 FROM heads WHERE run_id = ?1)"
    )
    return bool(connection.execute(query, (stream,)).fetchone()[0])


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
    if position == 0:
        return 0
    row = connection.execute(
        "SELECT version FROM events WHERE position = ? AND run_id = ?", (position, stream)
    ).fetchone()
    if row is not None:
        return int(row[0])
    row = connection.execute("SELECT version, position FROM heads WHERE run_id = ?", (stream,)).fetchone()
    if row is None:
        return 0
    low, high = 0, int(row[0])
    if row[1] <= position:
        return high
    # Versions are dense and rise with positions: halving finds the place in any run without an index of its own.
    while low + 1 < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT position FROM events WHERE run_id = ? AND version = ?", (stream, middle)
        ).fetchone()
        if row is None or row[0] <= position:
            low = middle
        else:
            high = middle
    return low


def position_of(connection: sqlite3.Connection, stream: str, version: int) -> int | None:
    """The position of the stream's event of that number; None where it has none."""
    row = connection.execute(
        "SELECT position FROM events WHERE run_id = ? AND version = ?", (stream, version)
    ).fetchone()
    return None if row is None else int(row[0])


def bounds(connection: sqlite3.Connection) -> Bounds:
    position, trimmed_to, log_id = connection.execute("SELECT position, trimmed_to, log_id FROM head").fetchone()
    return Bounds(first=trimmed_to + 1, last=position, log_id=log_id)


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
        after=head[0],
        stream=stream,
        # Not a step further: what another has appended since is not looked at here.
        upto=head[0],
    )
    return None if row is None else recorded_of(row)


def find(
    connection: sqlite3.Connection, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()
) -> tuple[Recorded, ...]:
    """The stream's events with one of these ids, or made by one of these commands, in order."""
    found: dict[int, Row] = {}
    for column, names in (("id", ids), ("command", commands)):
        if len(names) > APPEND_EVENTS_MAX:
            raise BadRequest(f"{len(names)} ids looked up at once, at most {APPEND_EVENTS_MAX}")
        if names:
            marks = ", ".join("?" * len(names))
            query = f"SELECT {COLUMNS} FROM events WHERE run_id = ? AND {column} IN ({marks})"  # noqa: S608
            for row in connection.execute(query, (stream, *(uuid_bytes(text) for text in names))).fetchall():
                found[row[0]] = row
    checks = _checks_of(connection)
    if checks is not None:
        checks.check(connection, sorted(found))
    return tuple(recorded_of(found[position]) for position in sorted(found))


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection, of any process, has committed."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def recorded_of(row: Row) -> Recorded:
    """The event of a row of COLUMNS."""
    return Recorded(
        position=row[0],
        run_id=row[1],
        version=row[2],
        id=uuid_text(row[3]),
        type=row[4],
        schema=row[5],
        at_us=row[6],
        recorded_at_us=row[7],
        tenant=row[8],
        actor=row[9],
        cause=None if row[10] is None else uuid_text(row[10]),
        command=None if row[11] is None else uuid_text(row[11]),
        sent=row[12],
        correlation=row[13],
        hash=row[14],
        data=row[15],
        salt=row[16],
    )


class RecordedRows(Sequence[Recorded]):
    """The events of rows of COLUMNS, each made when it is looked at: most who append only ask where it went."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    @overload
    def __getitem__(self, index: int) -> Recorded: ...

    @overload
    def __getitem__(self, index: slice) -> "RecordedRows": ...

    def __getitem__(self, index: int | slice) -> "Recorded | RecordedRows":
        return RecordedRows(self._rows[index]) if isinstance(index, slice) else recorded_of(self._rows[index])

    @property
    def ends(self) -> tuple[int, int, int]:
        """The first and the last position, and the last version; there is at least one row."""
        first, last = self._rows[0], self._rows[-1]
        return first[0], last[0], last[2]

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(cast("Sequence[object]", other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


def uuid_text(content: bytes) -> str:
    text = content.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID's text. Raises BadRequest."""
    try:
        # The usual spelling is read three times as fast as by UUID, which also knows the others.
        if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":
            content = bytes.fromhex(text.replace("-", ""))
            if len(content) == 16:
                return content
        return uuid.UUID(text).bytes
    except ValueError:
        raise BadRequest(f"`{text}` is not a UUID", hint="ids of events and commands are UUIDs") from None

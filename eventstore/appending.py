"""Appending to the log in one transaction for many callers: each is judged alone, all are durable together."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeAlias

import msgspec

from eventstore.anchoring import write_anchor
from eventstore.chain import data_digest, link, sent_digest
from eventstore.contract import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX, Appended
from eventstore.reading import COLUMNS, recorded_of, uuid_bytes, uuid_text
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import NewEvent, Recorded
from runfold.errors import BadRequest, Conflict, EventIdConflict, RunfoldError, TooLarge, Unavailable

ANCHOR_EVENTS = 1000
NAME_BYTES_MAX = 512
AT_US_MAX = 253_402_300_799_999_999  # The end of year 9999: what RFC 3339 can still write.
SALT_BYTES = 16
SQLITE_BUSY = 5
SQLITE_LOCKED = 6
ROWS_AT_ONCE_MAX = 256  # 17 values each: far below the 32,766 of one statement.
_INSERT = f"INSERT INTO events ({COLUMNS}) VALUES "  # noqa: S608
_EVENT_MARKS = f"({', '.join('?' * 17)})"
_INSERT_HEADS = "INSERT INTO heads (run_id, position, version, hash) VALUES "
_UPDATE_HEADS = (
    " ON CONFLICT (run_id) DO UPDATE SET position = excluded.position, version = excluded.version, hash = excluded.hash"
)
_Row: TypeAlias = tuple[int | str | bytes | None, ...]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's append, checked as far as it can be without the log; `ids` are the bytes of the events' ids."""

    stream: str
    events: tuple[NewEvent, ...]
    ids: tuple[bytes, ...]
    expected: int
    size_bytes: int


class Head(msgspec.Struct, frozen=True):
    """The last event of a run, as the transaction at work sees it."""

    position: int
    version: int
    hash: bytes


class Group:
    """The state of one transaction: what the log holds, plus what its earlier requests add."""

    def __init__(self, position: int, recorded_at_us: int) -> None:
        self.position = position
        self.recorded_at_us = recorded_at_us
        self.rows: list[_Row] = []
        self.heads: dict[str, Head] = {}
        self.known: set[tuple[str, bytes]] = set()
        self.added: dict[tuple[str, bytes], Recorded] = {}


def prepare(stream: str, events: Sequence[NewEvent], expected: int) -> Request:
    """A request that the log can take or refuse without harm to its neighbours. Raises BadRequest, TooLarge."""
    if not events:
        raise BadRequest(f"nothing to append to `{stream}`")
    check_sizes(stream, [len(event.data) for event in events])
    _check_text("stream", stream)
    ids = tuple(uuid_bytes(event.id) for event in events)
    if len(set(ids)) != len(ids):
        raise BadRequest(f"an event id is twice in one append to `{stream}`", hint="give each event its own id")
    for event in events:
        for name in ("type", "tenant", "actor", "correlation"):
            _check_text(name, getattr(event, name))
        if not 0 <= event.at_us <= AT_US_MAX:
            raise BadRequest(f"the time of event `{event.id}` is outside the years 1970 to 9999")
        if not 0 <= event.schema < 2**31:
            raise BadRequest(f"the schema {event.schema} of event `{event.id}` is not a small number")
        for other in (event.cause, event.command):
            if other is not None:
                uuid_bytes(other)
    return Request(
        stream=stream,
        events=tuple(events),
        ids=ids,
        expected=expected,
        size_bytes=sum(len(event.data) for event in events),
    )


def check_sizes(stream: str, sizes: Sequence[int]) -> None:
    """Raises TooLarge where the data of one append's events is more than the log takes."""
    if len(sizes) > APPEND_EVENTS_MAX:
        raise TooLarge(
            f"{len(sizes)} events in one append to `{stream}`, at most {APPEND_EVENTS_MAX}", hint="send them in parts"
        )
    if max(sizes, default=0) > EVENT_BYTES_MAX:
        raise TooLarge(
            f"an event for `{stream}` has {max(sizes)} bytes of data, at most {EVENT_BYTES_MAX}",
            hint="store the long part as an artifact and name it in the event",
        )
    if sum(sizes) > APPEND_BYTES_MAX:
        raise TooLarge(
            f"{sum(sizes)} bytes in one append to `{stream}`, at most {APPEND_BYTES_MAX}", hint="send them in parts"
        )


def append_group(
    connection: sqlite3.Connection, requests: Sequence[Request], now_us: int
) -> tuple[list[Appended | RunfoldError], str | None]:
    """Append for all callers in one transaction; the outcomes in order, and the line of a new anchor.

    Raises Unavailable before anything was tried; sqlite3.Error when the transaction as a whole fails.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        # Only waiting in vain is harmless; a disk that cannot be read is as bad here as in the commit.
        if _primary_code(error) not in (SQLITE_BUSY, SQLITE_LOCKED):
            raise
        raise Unavailable(f"the log is held by another program: {error}", hint="try again") from error
    try:
        outcomes, anchor = append_within(connection, requests, now_us)
        connection.execute("COMMIT")
        return outcomes, anchor
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def append_within(
    connection: sqlite3.Connection, requests: Sequence[Request], now_us: int
) -> tuple[list[Appended | RunfoldError], str | None]:
    """The same inside a transaction of the caller's."""
    position, recorded_at_us = connection.execute("SELECT position, recorded_at_us FROM head").fetchone()
    # A clock that steps back must not put later events before earlier ones.
    group = Group(position, max(now_us, recorded_at_us))
    look_up(connection, group, requests)
    outcomes = [judge(connection, group, request) for request in requests]
    return outcomes, store(connection, group, since=position) if group.rows else None


def _primary_code(error: sqlite3.Error) -> int:
    # The upper bits say where it happened.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _in_parts(rows: Sequence[_Row]) -> Iterator[tuple[int, list[int | str | bytes | None]]]:
    """The rows in parts with their values in one list; sizes are powers of two, so few statements are ever compiled."""
    start = 0
    while start < len(rows):
        size = min(ROWS_AT_ONCE_MAX, 1 << (len(rows) - start).bit_length() - 1)
        yield size, list(chain.from_iterable(rows[start : start + size]))
        start += size


def look_up(connection: sqlite3.Connection, group: Group, requests: Sequence[Request]) -> None:
    """What the log holds of all requests: the last events of their runs, and which of their ids it knows."""
    for size, streams in _in_parts([(stream,) for stream in {request.stream for request in requests}]):
        query = f"SELECT run_id, position, version, hash FROM heads WHERE run_id IN ({', '.join('?' * size)})"  # noqa: S608
        for run_id, position, version, digest in connection.execute(query, streams):
            group.heads[run_id] = Head(position, version, digest)
    pairs = [(request.stream, id) for request in requests if request.stream in group.heads for id in request.ids]
    for size, values in _in_parts(pairs):
        marks = ", ".join(["(?, ?)"] * size)
        query = f"SELECT run_id, id FROM events WHERE (run_id, id) IN (VALUES {marks})"  # noqa: S608
        group.known.update(connection.execute(query, values))


def store(connection: sqlite3.Connection, group: Group, *, since: int) -> str | None:
    """Write what the group adds after the head `since`; the line of a new anchor."""
    for size, values in _in_parts(group.rows):
        connection.execute(_INSERT + ", ".join([_EVENT_MARKS] * size), values)
    heads: list[_Row] = [
        (run_id, head.position, head.version, head.hash)
        for run_id, head in group.heads.items()
        if head.position > since
    ]
    for size, values in _in_parts(heads):
        connection.execute(_INSERT_HEADS + ", ".join(["(?, ?, ?, ?)"] * size) + _UPDATE_HEADS, values)
    connection.execute(
        "UPDATE head SET position = ?, recorded_at_us = ? WHERE one = 1", (group.position, group.recorded_at_us)
    )
    return write_anchor(connection, group.position, at_least=ANCHOR_EVENTS)


def judge(connection: sqlite3.Connection, group: Group, request: Request) -> Appended | RunfoldError:
    """One caller's outcome, after what the group adds already; what it adds itself is in the group."""
    try:
        head = group.heads.get(request.stream) or Head(0, 0, b"")
        for id in request.ids:
            if (request.stream, id) in group.known or (request.stream, id) in group.added:
                return _duplicate(request, _known(connection, group, request))
        if head.position != request.expected:
            return Conflict(
                f"the last event of `{request.stream}` is at position {head.position}, not {request.expected}",
                actual=head.position,
                hint="read the new events and decide again",
                run_id=request.stream,
            )
        return _add(group, request, head)
    except RunfoldError as error:
        return error


def _known(connection: sqlite3.Connection, group: Group, request: Request) -> list[Recorded]:
    """The events of the run that have one of the request's ids, in order."""
    marks = ", ".join("?" * len(request.ids))
    query = f"SELECT {COLUMNS} FROM events WHERE run_id = ? AND id IN ({marks}) ORDER BY position"  # noqa: S608
    known = [recorded_of(row) for row in connection.execute(query, (request.stream, *request.ids)).fetchall()]
    # What an earlier caller of this transaction added is not yet in the table.
    added = [group.added[request.stream, id] for id in request.ids if (request.stream, id) in group.added]
    return known + sorted(added, key=lambda recorded: recorded.position)


def _duplicate(request: Request, known: list[Recorded]) -> Appended:
    first = known[0]
    for offset, (recorded, identity) in enumerate(zip(known, request.ids, strict=False)):
        if recorded.id != uuid_text(identity) or recorded.version != first.version + offset:
            raise _id_conflict(request.stream, recorded.id, "in another order or with other neighbours")
        if not is_same(recorded, request.events[offset]):
            raise _id_conflict(request.stream, recorded.id, "with other content")
    if len(known) != len(request.ids):
        raise _id_conflict(request.stream, first.id, "but not all events of this append are")
    return Appended(
        first=first.position,
        last=known[-1].position,
        version=known[-1].version,
        duplicate=True,
        events=tuple(known),
    )


def is_same(recorded: Recorded, event: NewEvent) -> bool:
    """Whether a new event is the recorded one again, by what the caller sent; redacted data counts as the same."""
    if recorded.type != event.type:
        return False
    if recorded.sent is not None and event.sent is not None:
        return is_sent(recorded, event.sent)
    return recorded.salt is None or recorded.data == event.data


def is_sent(recorded: Recorded, sent: bytes) -> bool:
    """Whether the digest of what a caller sends is the recorded one; without its salt nobody can tell, so it is."""
    return recorded.salt is None or recorded.sent == sent_digest(recorded.salt, sent)


def _id_conflict(stream: str, identity: str, how: str) -> EventIdConflict:
    return EventIdConflict(
        f"event `{identity}` of `{stream}` is known {how}",
        hint="send the same events again as they were, or give new events new ids",
        run_id=stream,
    )


def _add(group: Group, request: Request, head: Head) -> Appended:
    rows: list[_Row] = []
    added: list[Recorded] = []
    position, version, previous = group.position, head.version, head.hash
    salts = os.urandom(SALT_BYTES * len(request.ids))
    for number, (event, identity) in enumerate(zip(request.events, request.ids, strict=True)):
        position, version = position + 1, version + 1
        salt = salts[number * SALT_BYTES : (number + 1) * SALT_BYTES]
        cause = None if event.cause is None else uuid_bytes(event.cause)
        command = None if event.command is None else uuid_bytes(event.command)
        sent = None if event.sent is None else sent_digest(salt, event.sent)
        previous = link(
            previous,
            tenant=event.tenant,
            run_id=request.stream,
            version=version,
            identity=identity,
            type_name=event.type,
            schema=event.schema,
            at_us=event.at_us,
            actor=event.actor,
            cause=cause,
            command=command,
            sent=sent,
            correlation=event.correlation,
            digest=data_digest(salt, event.data),
        )
        row: _Row = (
            *(position, request.stream, version, identity, event.type, event.schema, event.at_us),
            *(group.recorded_at_us, event.tenant, event.actor, cause, command, sent, event.correlation),
            *(previous, event.data, salt),
        )
        rows.append(row)
        added.append(recorded_of(row))
    # Only now is the group changed: a failure above leaves no trace of this caller.
    first = group.position + 1
    group.rows += rows
    group.position = position
    group.heads[request.stream] = Head(position, version, previous)
    group.added.update(((request.stream, id), recorded) for id, recorded in zip(request.ids, added, strict=True))
    return Appended(first=first, last=position, version=version, duplicate=False, events=tuple(added))


def _check_text(name: str, text: str) -> None:
    if text and text.isascii() and len(text) <= NAME_BYTES_MAX:
        return
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"the {name} of an event is not valid Unicode text") from None
    if size > NAME_BYTES_MAX:
        raise TooLarge(f"the {name} of an event has {size} bytes, at most {NAME_BYTES_MAX}")
    if not text and name in ("stream", "type"):
        raise BadRequest(f"the {name} of an event is empty")

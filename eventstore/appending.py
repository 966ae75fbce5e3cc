"""Appending to the log in one transaction for many callers: each is judged alone, all are durable together."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from eventstore.anchoring import write_anchor
from eventstore.chain import anchored, data_digest, link, sent_digest
from eventstore.contract import Appended
from eventstore.damage import is_held
from eventstore.grouping import NO_HEAD, Group, Head, Memory, look_up_ids
from eventstore.identified import rows_of
from eventstore.preparing import Request
from eventstore.rows import COLUMNS, ROWS_AT_ONCE_MAX, RecordedRows, Row, in_parts, recorded_of, uuid_text
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import NewEvent, Recorded
from runfold.errors import Conflict, EventIdConflict, RunfoldError, Unavailable

ANCHOR_EVENTS = 1000
AHEAD_EVENTS_MAX = 256  # More would keep the loop too long, where they are judged.
MOVE_HEADS = (
    "REPLACE INTO heads (run_id, position, version, hash)"
    " SELECT run_id, position, version, hash FROM events WHERE position > ? ORDER BY position"
)
"""The last event of each run that has one after a position."""


class Judged(NamedTuple):
    """What becomes of each request, and what the log is to hold after them."""

    outcomes: list[Appended | RunfoldError]
    group: Group


def judge_ahead(requests: Sequence[Request], now_us: Callable[[], int], memory: Memory) -> Judged | None:
    """What becomes of new events of runs whose ends are remembered, if nobody else commits first.

    None where the log has to be asked about any of them.
    """
    if sum([len(request.ids) for request in requests]) > AHEAD_EVENTS_MAX:
        return None
    group = memory.group_ahead(requests, now_us)
    if group is None:
        return None
    return Judged([add(group, request, group.heads[request.stream]) for request in requests], group)


def append_group(
    connection: sqlite3.Connection,
    requests: Sequence[Request],
    now_us: Callable[[], int],
    memory: Memory | None = None,
    ahead: Judged | None = None,
) -> tuple[list[Appended | RunfoldError], str | None]:
    """Append for all callers in one transaction; the outcomes in order, and the line of a new anchor.

    `memory` is of this connection and no other; `ahead` is what it said last of these requests. Raises Unavailable
    before anything was tried; sqlite3.Error when the transaction as a whole fails.
    """
    memory = Memory() if memory is None else memory
    try:
        try:
            return _transact(connection, requests, now_us, memory, ahead)
        except sqlite3.IntegrityError:
            # The log knows one of the ids: it is looked up whose, and the others are appended all the same.
            memory.forget()
            return _transact(connection, requests, now_us, memory, None, is_hopeful=False)
    except BaseException:
        memory.forget()
        raise


def _transact(
    connection: sqlite3.Connection,
    requests: Sequence[Request],
    now_us: Callable[[], int],
    memory: Memory,
    ahead: Judged | None,
    *,
    is_hopeful: bool = True,
) -> tuple[list[Appended | RunfoldError], str | None]:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        # Only waiting in vain is harmless; a disk that cannot be read is as bad here as in the commit.
        if not is_held(error):
            raise
        raise Unavailable(f"the log is held by another program: {error}", hint="try again") from error
    try:
        if ahead is None or not memory.still_holds(connection):
            group = memory.group(connection, requests, now_us())
            # New ids are the rule, and the table itself refuses a known one: then this is done again, and looked up.
            look_up_ids(connection, group, _doubtful(group, requests) if is_hopeful else requests)
            ahead = Judged([judge(connection, group, request) for request in requests], group)
        outcomes, group = ahead
        anchor = store(connection, group) if group.rows else None
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    memory.keep(group)
    return outcomes, anchor


def append_within(
    connection: sqlite3.Connection, requests: Sequence[Request], now_us: int
) -> tuple[list[Appended | RunfoldError], str | None]:
    """The same inside a transaction of the caller's."""
    group = Memory().group(connection, requests, now_us)
    look_up_ids(connection, group, requests)
    outcomes = [judge(connection, group, request) for request in requests]
    return outcomes, store(connection, group) if group.rows else None


def _doubtful(group: Group, requests: Sequence[Request]) -> list[Request]:
    """Those that may not be appended as they are: a Conflict is only an answer to events that the log does not know."""
    doubtful: list[Request] = []
    seen: set[str] = set()
    for request in requests:
        head = group.heads.get(request.stream)
        if request.expected != (0 if head is None else head.position) or request.stream in seen:
            doubtful.append(request)
        seen.add(request.stream)
    return doubtful


def store(connection: sqlite3.Connection, group: Group) -> str | None:
    """Write what the group adds; the line of a new anchor."""
    for size, values in in_parts(group.rows):
        connection.execute(_insert_events(size), values)
    # As they stand there: a row that is already in SQLite's hands is not given to it once more.
    connection.execute(MOVE_HEADS, (group.since,))
    connection.execute(
        "UPDATE head SET position = ?, recorded_at_us = ? WHERE one = 1", (group.position, group.recorded_at_us)
    )
    if group.unsealed is not None:
        group.unsealed += b"".join([anchored(row[0], row[7], row[14]) for row in group.rows])
    if group.position - group.sealed < ANCHOR_EVENTS:
        return None
    anchor = write_anchor(connection, group.position, at_least=ANCHOR_EVENTS, unsealed=group.unsealed)
    if anchor is not None:
        group.sealed, group.unsealed = group.position, bytearray()
    return anchor


# A statement that is the same object again is found among the compiled ones without reading it.
@lru_cache(maxsize=ROWS_AT_ONCE_MAX)
def _insert_events(count: int) -> str:
    marks = ", ".join([f"({', '.join('?' * 17)})"] * count)
    return f"INSERT INTO events ({COLUMNS}) VALUES {marks}"  # noqa: S608


def judge(connection: sqlite3.Connection, group: Group, request: Request) -> Appended | RunfoldError:
    """One caller's outcome, after what the group adds already; what it adds itself is in the group."""
    try:
        stream = request.stream
        head = group.heads.get(stream) or NO_HEAD
        if (stream in group.known or stream in group.added) and group.holds_any(request):
            return _duplicate(request, _known(connection, group, request))
        if head.position != request.expected:
            return Conflict(
                f"the last event of `{stream}` is at position {head.position}, not {request.expected}",
                actual=head.position,
                hint="read the new events and decide again",
                run_id=stream,
            )
        outcome = add(group, request, head)
        group.added.setdefault(stream, {}).update({row[3]: row for row in group.rows[-len(request.ids) :]})
    except RunfoldError as error:
        return error
    return outcome


def _known(connection: sqlite3.Connection, group: Group, request: Request) -> list[Recorded]:
    """The events of the run that have one of the request's ids, in order."""
    known = [recorded_of(row) for row in sorted(rows_of(connection, request.stream, "id", request.ids))]
    # What an earlier caller of this transaction added is not yet in the table.
    added = group.added.get(request.stream, {})
    mine = [recorded_of(added[id]) for id in request.ids if id in added]
    return known + sorted(mine, key=lambda recorded: recorded.position)


def _duplicate(request: Request, known: list[Recorded]) -> Appended:
    first = known[0]
    for offset, (recorded, identity) in enumerate(zip(known, request.ids, strict=False)):
        if recorded.id != uuid_text(identity) or recorded.version != first.version + offset:
            raise _id_conflict(request.stream, recorded.id, "in another order or with other neighbours")
        if not is_same(recorded, request.parts[offset][0]):
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


def add(group: Group, request: Request, head: Head) -> Appended:
    """Add what nothing speaks against to the group, after the run's head."""
    stream, recorded_at_us = request.stream, group.recorded_at_us
    position, version, previous = group.position, head.version, head.hash
    rows: list[Row] = []
    salts = group.salts(len(request.ids))
    for event, identity, cause, command in request.parts:
        position, version, salt = position + 1, version + 1, salts.pop()
        sent = None if event.sent is None else sent_digest(salt, event.sent)
        previous = link(
            previous, event.tenant, stream, version, identity, event.type, event.schema, event.at_us, event.actor,
            cause, command, sent, event.correlation, data_digest(salt, event.data),
        )  # fmt: skip
        rows.append((
            position, stream, version, identity, event.type, event.schema, event.at_us, recorded_at_us, event.tenant,
            event.actor, cause, command, sent, event.correlation, previous, event.data, salt,
        ))  # fmt: skip
    # Only now is the group changed: a failure above leaves no trace of this caller.
    first = group.position + 1
    group.rows += rows
    group.position = position
    group.heads[stream] = Head(position, version, previous)
    return Appended(first=first, last=position, version=version, duplicate=False, events=RecordedRows(rows))

"""A log moves between a folder and a cluster with its positions, ids and hashes, so every cursor and anchor stays good.

Afterwards the folder is a mirror of the cluster's log, or the other way round: the mirror is a log of its own.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from eventstore.blocks import OF_RUN
from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import REPLICAS, REQUEST_SECONDS, RETRY_SECONDS, Cluster, connect, stream_state
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.messages import FORMAT, GAP, Message, decode, encode, subject_of
from eventstore.jetstream.mirroring import PATIENCE_SECONDS
from eventstore.log_file import open_reader
from eventstore.mirrored import Mirrored, end_mirror, mirrored_log, note_mirrored
from eventstore.reading import bounds
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS
from eventstore.writing import Writer
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import BadRequest, Conflict, LogFailed, NotAllowed, Unavailable

WINDOW_EVENTS = 256  # Sent ahead of what is acknowledged; each is only taken at its own place.
Tell = Callable[[int, int], None]
Placed = tuple[int, str, bytes]
"""A position, and what is sent there: subject and content."""


async def move_to_cluster(data: Path, address: Address, *, replicas: int = REPLICAS, tell: Tell) -> int:
    """Copy a folder's log into an empty cluster's, and make the folder its mirror; how many events it holds.

    `tell` hears (events copied, events in all). What was copied before stays: the same call goes on where one ended.
    Nothing may drive runs on the folder meanwhile. Raises BadRequest, NotAllowed, Unavailable, LogFailed.
    """
    if mirrored_log(data) is not None:
        raise BadRequest(f"`{data}` mirrors a replicated log already", hint="copy the folder that has a log of its own")
    with closing(open_reader(data)) as source:
        head = bounds(source)
        _refuse_gaps(source, data, head.last)
        cluster = await connect(address, replicas=replicas, new_log_id=lambda: head.log_id)
        try:
            if cluster.log_id != head.log_id:
                raise BadRequest(
                    f"`{address.shown}` holds another log ({cluster.log_id}), not a part of this one ({head.log_id})",
                    hint="name a new one: nats://host:4222/another-name",
                )
            await _copy(source, cluster, head.last, tell)
        finally:
            await cluster.client.close()
    mirrored = Mirrored(address=address.shown, log_id=head.log_id)
    await asyncio.to_thread(_become_mirror, data, head.last, mirrored)
    return head.last


async def move_to_folder(address: Address, data: Path, *, replicas: int = REPLICAS) -> int:
    """Copy a cluster's log into a folder that has none, as a log of its own; how far it goes.

    Whatever is appended to the cluster afterwards is not in the folder. Raises BadRequest, Unavailable, LogFailed.
    """
    log = await JetStreamLog.connect(address, data, replicas=replicas)
    try:
        head = await log.bounds()
        if log.behind_seconds:
            raise Unavailable("the servers of the log do not answer", hint="a majority must be up; then try again")
    finally:
        await log.close()
    end_mirror(data)
    return head.last


def _refuse_gaps(source: sqlite3.Connection, data: Path, last: int) -> None:
    """What was trimmed is told of in the log; what is missing beyond that is lost, and is not covered up."""
    query = "SELECT count(*), (SELECT trimmed_to FROM head) FROM events WHERE position > (SELECT trimmed_to FROM head)"
    count, trimmed_to = source.execute(query).fetchone()
    # Where a run was closed and trimmed in a log of several machines, the place of its last event is empty.
    query = (
        f"SELECT count(*) FROM {OF_RUN} WHERE run_id = ? AND type = 'run_archived' AND position - 1 > ?"  # noqa: S608
        " AND json_extract(CAST(data AS TEXT), '$.counts.closed')"
    )
    count += source.execute(query, (SYSTEM_STREAM, trimmed_to)).fetchone()[0]
    if count != last - trimmed_to:
        raise NotAllowed(
            f"the log in `{data}` no longer has {last - trimmed_to - count} of its {last} events",
            hint="`runfold verify` names them; restore a backup, or read the log where it is",
        )


async def _copy(source: sqlite3.Connection, cluster: Cluster, last: int, tell: Tell) -> None:
    position, ends = 0, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            held = (await stream_state(cluster)).state.last_seq
            if held > position:
                ends = time.monotonic() + PATIENCE_SECONDS
            position = held
            await _check_last(source, cluster, position)
            tell(position, last)
            if position >= last:
                await cluster.jetstream.purge_stream(cluster.name, subject=f"{cluster.name}.{GAP}")
                return
            await _send(cluster, _after(cluster, source, position))
        except (NatsError, TimeoutError, OSError, Conflict) as error:
            if time.monotonic() > ends:
                raise Unavailable(
                    f"the log's servers took {position} of {last} events, then no more: {type(error).__name__}",
                    hint="give the same command again: it goes on from there",
                ) from error
            await asyncio.sleep(RETRY_SECONDS)


async def _check_last(source: sqlite3.Connection, cluster: Cluster, position: int) -> None:
    """What is there already is a part of this very log: the hash of its last event seals all before it in its run."""
    if not position:
        return
    (_, subject, content), *_ = _after(cluster, source, position - 1, limit=1)
    try:
        there = await cluster.jetstream.get_msg(cluster.name, seq=position, direct=False)
        is_same = there.subject == subject and _hash(there.data, position) == _hash(content, position)
    except NotFoundError:
        # A place that was kept for what is trimmed goes when all is there.
        is_same = not content
    if not is_same:
        raise BadRequest(
            f"the cluster's log goes on differently at position {position}",
            hint="somebody has written to it: name a new one, nats://host:4222/another-name",
        )


def _hash(content: bytes | None, position: int) -> bytes:
    return decode(content, position).hash if content else b""


async def _send(cluster: Cluster, messages: Sequence[Placed]) -> None:
    """Send events ahead of their acknowledgements; the stream takes each only as its next one."""
    answers = await asyncio.gather(*(_send_one(cluster, *message) for message in messages), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


async def _send_one(cluster: Cluster, position: int, subject: str, content: bytes) -> None:
    try:
        await cluster.jetstream.publish(
            subject,
            content,
            timeout=REQUEST_SECONDS,
            headers={"Nats-Expected-Last-Sequence": str(position - 1)},
        )
    except APIError as error:
        # What went before was not taken, so neither is this; it is sent again from what is there.
        raise Conflict(f"position {position} was not taken: {error.description}") from error


def _after(cluster: Cluster, source: sqlite3.Connection, position: int, *, limit: int = WINDOW_EVENTS) -> list[Placed]:
    """What goes to the next positions: events; where there is none any more, what keeps its place until all is there.

    At the place of a trimmed run's last event stands one that stays: it keeps the run's id from being given again.
    """
    upto = min(position + limit, bounds(source).last)
    query = f"SELECT {WHOLE_COLUMNS} FROM events WHERE position > ? AND position <= ?"  # noqa: S608
    rows = {row[0]: _message(row) for row in source.execute(query, (position, upto)).fetchall()}
    query = "SELECT position, run_id, version, hash FROM heads WHERE position > ? AND position <= ?"
    for place, run_id, version, last_hash in source.execute(query, (position, upto)).fetchall():
        if place not in rows and version > 1:
            rows[place] = _guard(run_id, version, last_hash)
    return [
        (place, subject_of(cluster.name, rows[place].run_id), encode(rows[place]))
        if place in rows
        else (place, f"{cluster.name}.{GAP}", b"")
        for place in range(position + 1, upto + 1)
    ]


def _message(row: Sequence[object]) -> Message:
    return msgspec.convert((FORMAT, 0, *row[1:]), Message)


def _guard(run_id: str, version: int, last_hash: bytes) -> Message:
    return Message(
        format=FORMAT,
        rest=0,
        run_id=run_id,
        version=version,
        id=uuid.uuid4().bytes,
        type="run_archived",
        schema=1,
        at_us=0,
        recorded_at_us=0,
        tenant="",
        actor="",
        cause=None,
        command=None,
        sent=None,
        correlation="",
        hash=last_hash,
        data=None,
        salt=None,
        digest=bytes(32),
    )


def _become_mirror(data: Path, last: int, mirrored: Mirrored) -> None:
    """The folder writes to its own log no more, from the very event up to which it was copied."""
    writer = Writer(data, lambda: time.time_ns() // 1000)
    try:
        with writer.locked():
            if bounds(writer.connection).last != last:
                raise LogFailed(
                    f"somebody appended to `{data}` while it was copied",
                    hint="give the same command again: it copies what was added",
                )
            note_mirrored(data, mirrored)
    finally:
        writer.abandon()

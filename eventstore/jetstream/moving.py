"""A log moves between a folder and a cluster with its positions, ids and hashes, so every cursor and anchor stays good.

Afterwards the folder is a mirror of the cluster's log, or the other way round: the mirror is a log of its own.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import REPLICAS, REQUEST_SECONDS, RETRY_SECONDS, Cluster, connect, stream_state
from eventstore.jetstream.log import PATIENCE_SECONDS, JetStreamLog
from eventstore.jetstream.messages import FORMAT, Message, decode, encode, subject_of
from eventstore.mirrored import Mirrored, end_mirror, mirrored_log, note_mirrored
from eventstore.reading import COLUMNS, bounds, open_reader
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import Writer
from runfold.errors import BadRequest, Conflict, LogFailed, NotAllowed, Unavailable

WINDOW_EVENTS = 256  # Sent ahead of what is acknowledged; each is only taken at its own place.
Tell = Callable[[int, int], None]


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
    count = source.execute("SELECT count(*) FROM events").fetchone()[0]
    if count != last:
        raise NotAllowed(
            f"the log in `{data}` no longer has {last - count} of its {last} events, so its positions cannot be kept",
            hint="start a new log on the cluster, and read the old one where it is",
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
                return
            await _send(cluster, _after(source, position))
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
    row = source.execute("SELECT hash FROM events WHERE position = ?", (position,)).fetchone()
    try:
        there = await cluster.jetstream.get_msg(cluster.name, seq=position, direct=False)
    except NotFoundError:
        there = None
    if row is None or there is None or decode(there.data or b"", position).hash != row[0]:
        raise BadRequest(
            f"the cluster's log goes on differently at position {position}",
            hint="somebody has written to it: name a new one, nats://host:4222/another-name",
        )


async def _send(cluster: Cluster, messages: Sequence[tuple[int, Message]]) -> None:
    """Send events ahead of their acknowledgements; the stream takes each only as its next one."""
    answers = await asyncio.gather(
        *(_send_one(cluster, position, message) for position, message in messages), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


async def _send_one(cluster: Cluster, position: int, message: Message) -> None:
    try:
        await cluster.jetstream.publish(
            subject_of(cluster.name, message.run_id),
            encode(message),
            timeout=REQUEST_SECONDS,
            headers={"Nats-Expected-Last-Sequence": str(position - 1)},
        )
    except APIError as error:
        # What went before was not taken, so neither is this; it is sent again from what is there.
        raise Conflict(f"position {position} was not taken: {error.description}") from error


def _after(source: sqlite3.Connection, position: int) -> list[tuple[int, Message]]:
    query = f"SELECT {COLUMNS}, digest FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608
    return [(row[0], _message(row)) for row in source.execute(query, (position, WINDOW_EVENTS)).fetchall()]


def _message(row: Sequence[object]) -> Message:
    return msgspec.convert((FORMAT, 0, *row[1:]), Message)


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

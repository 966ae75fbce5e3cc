"""A new machine begins with the newest snapshot of another's mirror that is of this very stream, and then follows."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from eventstore.jetstream.cluster import Cluster, stream_state
from eventstore.jetstream.messages import decode
from eventstore.keeping.snapshots import Snapshot, bring_file, is_snapshot_of, snapshots
from eventstore.log_file import LOG_FILE
from eventstore.objects.object_store import ObjectStore, open_store
from runfold.errors import LogFailed, Unavailable

TRIES = 3  # Of the newest; where none of them holds, the whole stream is followed.


async def seed_mirror(cluster: Cluster, data: Path, url: str) -> int:
    """Bring a mirror into a folder that has none; up to which position, 0 where no snapshot holds.

    A store that does not answer is no reason not to start: everything is in the stream.
    """
    if not _is_new(data):
        return 0
    try:
        store = open_store(url)
        for snapshot, _ in zip(snapshots(store, cluster.log_id), range(TRIES), strict=False):
            if not await _is_of(cluster, snapshot):
                continue
            if await asyncio.to_thread(_bring, store, snapshot, data):
                return snapshot.position
    except (Unavailable, NatsError, TimeoutError):
        pass
    return 0


def _is_new(data: Path) -> bool:
    if (data / LOG_FILE).exists():
        return False
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    return True


def _bring(store: ObjectStore, snapshot: Snapshot, data: Path) -> bool:
    new = data / f".seed-{os.getpid()}-{LOG_FILE}"
    try:
        if not (bring_file(store, snapshot, LOG_FILE, new) and is_snapshot_of(new, snapshot)):
            return False
        # Another process of the machine may have been quicker, and is writing to it by now.
        with suppress(FileExistsError):
            os.link(new, data / LOG_FILE)
    finally:
        new.unlink(missing_ok=True)
    return True


async def _is_of(cluster: Cluster, snapshot: Snapshot) -> bool:
    """Whether the stream has the event that the snapshot ends with."""
    if snapshot.position > (await stream_state(cluster)).state.last_seq:
        return False
    try:
        held = await cluster.jetstream.get_msg(cluster.name, seq=snapshot.position, direct=False)
        return decode(held.data or b"", snapshot.position).hash.hex() == snapshot.hash
    except (NotFoundError, LogFailed):
        return False

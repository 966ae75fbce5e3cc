"""Snapshots of a machine's mirror and views for machines to come: made now and then by whoever sees that one is due."""

import asyncio
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path

import structlog

from cli.copying import store_url
from cli.settings import Settings
from eventstore.keeping.snapshots import Snapshot, copy_mirror, put_snapshot, remove_snapshot, snapshots
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.mirrored import mirrored_log
from eventstore.objects.object_store import open_store
from eventstore.places import last_rewritten
from eventstore.reading import bounds
from eventstore.sqlite3_module import sqlite3
from projections.engine.seeding import FILE as VIEWS_FILE
from projections.engine.seeding import copy_views
from runfold.errors import RunfoldError

LOOK_SECONDS = 60.0
EVENTS_DUE = 100_000  # Some seconds of following, for a machine that is new.
_FOLDER = ".snapshot-"
KEPT = 2  # The newest, and the one before it for who is just bringing it.


async def keep_snapshots(settings: Settings) -> None:
    """Keep the newest snapshots of a replicated log in the store that its machines share, until cancelled."""
    url = store_url(settings)
    if not url or mirrored_log(settings.data) is None:
        return
    for left in settings.data.glob(f"{_FOLDER}*"):
        shutil.rmtree(left, ignore_errors=True)  # Of a process that was killed.
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            made = await asyncio.to_thread(snapshot_where_due, settings.data, url)
            if made is not None:
                structlog.get_logger().info("snapshot for new machines made", position=made.position)
        except (RunfoldError, OSError, sqlite3.Error) as error:
            structlog.get_logger().warning("no snapshot could be made", error=str(error))


def snapshot_where_due(data: Path, url: str, *, events_due: int = EVENTS_DUE) -> Snapshot | None:
    """Make a snapshot where the log has gone on far enough since the newest, and take away older ones.

    One from before a redaction or a trim says what is gone, and goes at once. Raises Unavailable, Contended, Damaged,
    OSError, sqlite3.Error.
    """
    store = open_store(url)
    with closing(open_reader(data)) as connection:
        head = bounds(connection)
        known = list(snapshots(store, head.log_id))
        rewritten = last_rewritten(connection, after=min((each.position for each in known), default=head.last))
    for snapshot in known:
        if snapshot.position < rewritten:
            remove_snapshot(store, snapshot)
    left = [snapshot for snapshot in known if snapshot.position >= rewritten]
    if head.last - (left[0].position if left else 0) < events_due:
        return None
    with tempfile.TemporaryDirectory(dir=data, prefix=_FOLDER) as name:
        folder = Path(name)
        files = {LOG_FILE: folder / LOG_FILE, VIEWS_FILE: folder / VIEWS_FILE}
        # The views first: so the log has every event that they stand at.
        if not copy_views(data, files[VIEWS_FILE]):
            del files[VIEWS_FILE]
        made = put_snapshot(store, copy_mirror(data, files[LOG_FILE], now_us=time.time_ns() // 1000), files)
    for snapshot in left[KEPT - 1 :]:
        remove_snapshot(store, snapshot)
    return made

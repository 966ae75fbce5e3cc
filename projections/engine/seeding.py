"""Views for a new machine: copied into a snapshot, and taken from one where they are of this making and this log."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from eventstore.keeping.snapshots import bring_file, snapshots
from eventstore.objects.object_store import ObjectStore
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.engine.checkpoints import read_checkpoints
from projections.engine.generations import current_generation, views_file
from projections.engine.remains import clear_remains
from projections.engine.view import View
from runfold.errors import Unavailable

FILE = "views.db"
TRIES = 3


def copy_views(data: Path, path: Path) -> bool:
    """Copy the served views as they are at one moment, while they are written to; False where there are none."""
    served = views_file(data, current_generation(data))
    if not served.exists():
        return False
    with closing(sqlite3.connect(f"{served.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as source:
        source.execute("VACUUM INTO ?", (str(path),))
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        clear_remains(copy)
    return True


def bring_views(data: Path, store: ObjectStore, log_id: str, views: Sequence[View] = VIEWS) -> int:
    """Bring views into a folder that has none; up to which position, 0 where no snapshot has any that can be used.

    They are of these fingerprints and of this log; whether the log has the event they stand at is seen when they are
    opened, as with any views. A store that does not answer is no reason not to start: they are folded then.
    """
    target = views_file(data, current_generation(data))
    if target.exists():
        return 0
    new = data / f".seed-{FILE}"
    try:
        for snapshot, _ in zip(snapshots(store, log_id), range(TRIES), strict=False):
            if bring_file(store, snapshot, FILE, new):
                position = _usable(new, log_id, views)
                if position:
                    new.replace(target)
                    return position
    except Unavailable:
        pass
    finally:
        new.unlink(missing_ok=True)
    return 0


def _usable(path: Path, log_id: str, views: Sequence[View]) -> int:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            checkpoints = read_checkpoints(connection)
    except sqlite3.DatabaseError:
        return 0
    wanted = {view.name: view.fingerprint for view in views}
    if {name: checkpoint.fingerprint for name, checkpoint in checkpoints.items()} != wanted:
        return 0
    if any((checkpoint.log_id, checkpoint.status) != (log_id, "live") for checkpoint in checkpoints.values()):
        return 0
    return min(checkpoint.position for checkpoint in checkpoints.values())

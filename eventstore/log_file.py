"""The log's file: opened to read alone, once it is seen to be a log of ours, and whole."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from eventstore.anchoring import ANCHORS_FILE
from eventstore.bringing_forward import OLD_VERSION
from eventstore.columns import Columns
from eventstore.damage import UNOPENED_HINT, damage_of, is_damage, is_lacking, is_no_database
from eventstore.mirrored import MIRROR_FILE
from eventstore.rows import COLUMNS
from eventstore.sqlite3_module import UNSHARED, sqlite3
from runfold.errors import BadRequest, Damaged, NotFound, Unavailable

APPLICATION_ID = 0x52554E46
USER_VERSION = 2
BUSY_TIMEOUT_MS = 5000
LOG_FILE = "log.db"
UNSHARED_CACHE_KIB = 256  # Who reads the whole log meets a page once: a new one takes memory that is still at hand.
REPAIR_HINT = "free or repair the disk; nothing was changed, and what was acknowledged is kept"
COPY_HINT = "copy the folder to where it can be written, and name the copy with --data; nothing was changed"
_KEPT = (
    f"SELECT {COLUMNS}, digest FROM events LIMIT 0",  # noqa: S608
    "SELECT log_id, position, recorded_at_us, trimmed_to FROM head LIMIT 0",
    "SELECT run_id, position, version, hash FROM heads LIMIT 0",
    "SELECT position, digest, previous FROM anchors LIMIT 0",
    "SELECT run_id, block FROM run_blocks LIMIT 0",
    "SELECT run_id, block FROM events INDEXED BY events_by_block LIMIT 0",
)
"""These succeed on every log, unless somebody has altered its tables."""


class Checking(Protocol):
    """What looks at events before they are given to a reader, see `eventstore.proof.checking`. Raises Damaged."""

    def knows(self, position: int) -> bool: ...

    def check(
        self, connection: sqlite3.Connection, positions: Sequence[int], columns: Columns | None = None
    ) -> None: ...

    def check_whole(self, connection: sqlite3.Connection, positions: Sequence[int], after: int, end: int) -> None: ...

    def check_versions(
        self, connection: sqlite3.Connection, stream: str, positions: Sequence[int], version: int, after: int
    ) -> None: ...

    def check_end(self, connection: sqlite3.Connection, stream: str, version: int, end: int) -> None: ...


class Reader(sqlite3.Connection):
    """A connection whose events are checked, where there is something that checks them."""

    checks: Checking | None = None


def open_reader(
    data: Path, checks: Checking | None = None, *, is_unshared: bool = False, oldest: int = USER_VERSION
) -> sqlite3.Connection:
    """A connection that can only read the log of a data folder; `is_unshared`: all of it, see UNSHARED.

    `oldest`: the oldest format that will do.

    Raises NotFound, BadRequest, Unavailable, Damaged.
    """
    path = data / LOG_FILE
    if not path.exists():
        refuse_lost(data)
        raise NotFound(
            f"no log in `{data}`", hint="`runfold run -- COMMAND` starts one; or name its folder with --data"
        )
    if not os.access(path, os.R_OK):
        raise Unavailable(
            f"`{path}` may not be read by this user",
            hint="be the user who owns the data folder, or choose another with --data; nothing was changed",
        )
    connection: Reader = sqlite3.connect(
        f"{path.absolute().as_uri()}?{'immutable=1' if _is_locked_away(path) else 'mode=ro'}",
        uri=True,
        isolation_level=None,
        factory=Reader,
        **(UNSHARED if is_unshared else {}),
    )
    connection.checks = checks
    try:
        if is_unshared:
            connection.execute(f"PRAGMA cache_size = -{UNSHARED_CACHE_KIB}")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        if not check_file(connection, path, oldest=oldest):
            refuse_lost(data)
            raise NotFound(f"the log in `{data}` is empty", hint="`runfold run -- COMMAND` starts it")
    except sqlite3.OperationalError as error:
        connection.close()
        raise Unavailable(
            f"the log in `{data}` cannot be read: {error}",
            hint=REPAIR_HINT if os.access(data, os.W_OK) else COPY_HINT,
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        connection.close()
        raise damage_of(error, hint=UNOPENED_HINT) from error
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_lost(data: Path) -> None:
    """Of a folder without a log, or with an empty one: there was never another. Raises Damaged.

    A mirror gets what it lacks from the log that it follows.
    """
    anchors = data / ANCHORS_FILE
    if anchors.exists() and anchors.stat().st_size and not (data / MIRROR_FILE).exists():
        raise Damaged(
            f"`{data}` holds no log any more: `{ANCHORS_FILE}` beside it tells of one",
            hint="keep a copy of the data folder as it is, then restore a backup into another; nothing was changed",
        )


def _is_locked_away(path: Path) -> bool:
    """Whether nobody can have left anything beside the file, nor we: SQLite makes its journal's index to read it."""
    if os.access(path.parent, os.W_OK):
        return False
    journal, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    return not index.exists() and not (journal.exists() and journal.stat().st_size)


def check_file(connection: sqlite3.Connection, path: Path, *, oldest: int = USER_VERSION) -> bool:
    """Whether the file is a log of ours (True) or still empty (False); `oldest`: the oldest format that will do.

    Raises BadRequest for another file, Damaged.
    """
    try:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        user_version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if is_no_database(error):
            raise BadRequest(
                f"`{path}` is not a SQLite file",
                hint="choose another data folder; if this was a log of runfold, restore a backup",
            ) from error
        if is_damage(error):
            raise damage_of(error, hint=UNOPENED_HINT) from error
        raise
    except UnicodeDecodeError as error:
        # What SQLite says of it holds a piece of it.
        raise damage_of(error, hint=UNOPENED_HINT) from error
    if application_id == 0 and tables == 0:
        return False
    if application_id != APPLICATION_ID:
        raise BadRequest(f"`{path}` belongs to another program", hint="choose another data folder")
    if user_version > USER_VERSION:
        raise BadRequest(
            f"`{path}` is of a newer runfold (format {user_version}, known {USER_VERSION})", hint="upgrade runfold"
        )
    if user_version < oldest:
        # Who opens it to write brings the format before this one forward.
        hint = "`runfold up` brings the log of a data folder forward, once; `runfold restore` that of a backup"
        if not os.access(path.parent, os.W_OK):
            hint = f"{COPY_HINT}; `runfold up` then brings its log forward"
        if user_version < OLD_VERSION:
            hint = "export its runs with the runfold that wrote it, and `runfold import` them into another data folder"
        raise BadRequest(f"`{path}` is of an older runfold (format {user_version}, known {USER_VERSION})", hint=hint)
    try:
        for statement in _KEPT if user_version == USER_VERSION else ():
            connection.execute(statement)
    except sqlite3.OperationalError as error:
        if not is_lacking(error):
            raise
        raise damage_of(error, hint=UNOPENED_HINT) from error
    return True

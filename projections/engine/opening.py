"""Connections to a file of views: to fold and read, to build the next one, or to read what nobody may write."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore.boot import boot_id
from eventstore.durable import make_private
from eventstore.sqlite3_module import UNSHARED, sqlite3
from runfold.errors import NotFound, Unavailable

BUSY_TIMEOUT_MS = 5_000
BUILDING_CACHE_KIB = 8 * 1024  # So little that new pages take the memory of old ones, still at hand to the processor.
SORTING_CACHE_KIB = 2 * 1024  # As much is sorted at a time: what the processor has at hand takes a quarter less time.
DISK_HINT = "free or repair the disk; nothing was changed, and what was acknowledged is in the log"


class Folded(sqlite3.Connection):
    """A connection to views, with one to the log that they were folded from, for what stands there alone.

    `log` is None before the first event.
    """

    log: sqlite3.Connection | None = None


def connect(path: Path, *, is_unshared: bool = False) -> Folded:
    """A connection to a views file; `is_unshared`: see UNSHARED. Raises Unavailable where the disk is full or fails."""
    unshared = UNSHARED if is_unshared else {}
    with suppress(OSError):  # SQLite says what is wrong there.
        make_private(path)
    connection: Folded = sqlite3.connect(path, isolation_level=None, factory=Folded, **unshared)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        # A power cut may lose the newest rows, never mix them: what is lost is folded again.
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as error:
        connection.close()
        raise Unavailable(f"`{path}` cannot be opened: {error}", hint=DISK_HINT) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_build(path: Path) -> Folded:
    """A connection to a file that nobody reads yet: it waits for the disk only when it is whole.

    A killed process leaves it whole: its journal stays in the page cache. A power cut may not, so whoever would go on
    with it looks at the boot that began it. Raises Unavailable where the disk is full or fails.
    """
    connection = connect(path, is_unshared=True)
    # Rows that are added at the end of a table go to the file once, not to a journal and then to the file.
    connection.execute("PRAGMA journal_mode = TRUNCATE")
    connection.execute(f"PRAGMA cache_size = -{BUILDING_CACHE_KIB}")
    if boot_id():
        connection.execute("PRAGMA synchronous = OFF")
    return connection


@contextmanager
def sorting(connection: sqlite3.Connection) -> Generator[None]:
    """Make indexes over many rows of a file that is being built."""
    connection.execute(f"PRAGMA cache_size = -{SORTING_CACHE_KIB}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA cache_size = -{BUILDING_CACHE_KIB}")


def connect_read_only(path: Path) -> Folded:
    """Without a views file an empty one in memory; without the right to lock, the file as it stands."""
    if not path.exists():
        return sqlite3.connect(":memory:", isolation_level=None, factory=Folded)
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        address = f"{path.absolute().as_uri()}?{mode}"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, factory=Folded)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return connection
        except sqlite3.OperationalError:
            connection.close()
    raise NotFound(f"`{path}` cannot be read", hint="read the data folder as the user who owns it")

"""The write side of a log file: creating it, and one transaction at a time under the lock all processes share."""

import os
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from eventstore.anchoring import AnchorFile, write_anchor
from eventstore.appending import Judged, append_group, append_within, judge_ahead
from eventstore.bringing_forward import OLD_VERSION, bring_forward, is_old
from eventstore.contract import APPEND_EVENTS_MAX, Appended
from eventstore.damage import is_of_disk
from eventstore.durable import sync
from eventstore.failpoints import reach
from eventstore.file_lock import FileLock
from eventstore.file_systems import refuse_network
from eventstore.grouping import Memory
from eventstore.intents import settle
from eventstore.journal import JOURNAL_BYTES_MAX
from eventstore.log_file import BUSY_TIMEOUT_MS, LOG_FILE, REPAIR_HINT, check_file, refuse_lost
from eventstore.mirrored import MIRROR_FILE, refuse_mirror
from eventstore.preparing import Request, prepare
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import NewEvent
from runfold.errors import RunfoldError, Unavailable

LOCK_FILE = "log.lock"
READ_BYTES = 4 * 1024 * 1024
JOURNAL_PAGES = 1_000  # Before they go into the log's file: SQLite's own measure.
JOURNAL_PAGES_BUSY = 4_000  # As many as one block of the journal's index holds (4,062): to read costs no more.
BUSY_REQUESTS = 8  # In one commit.
STATEMENTS_KEPT_MAX = 150  # For appends of every number of rows up to 64, and of more in parts, and all else.
SCHEMA = Path(__file__).with_name("schema.sql")


class Writer:
    """One write connection, made and used in one thread only; a mirror's in one at a time."""

    writes_mirrors = False
    """Whether it may write to a folder that only mirrors another log."""

    def __init__(self, data: Path, now_us: Callable[[], int]) -> None:
        """Open the log of a folder; make both where absent.

        Raises BadRequest for a file that is not ours to write, InvalidSetting for a network file system, Unavailable
        for a folder that cannot be written, or whose lock cannot be had in time, as whatever is asked of it later.
        """
        self._data = data
        self._now_us = now_us
        self._mirror_path = str(data / MIRROR_FILE)
        self._memory = Memory()
        self._busy = 0
        self._journal_pages = JOURNAL_PAGES
        self._anchors = AnchorFile(data)
        if not self.writes_mirrors:
            refuse_mirror(data)
        refuse_network(data)
        with _telling(data):
            # What is not ours gets no file of ours beside it either.
            if not _is_log(data / LOG_FILE):
                refuse_lost(data)
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock_file(data)
            self._turns = FileLock(self._lock, data / LOCK_FILE)
            try:
                with self.locked():
                    self.connection = _open(data / LOG_FILE, of_one_thread=not self.writes_mirrors)
                    settle(data, self.connection)
            except BaseException:
                os.close(self._lock)
                raise

    def judge_ahead(self, requests: Sequence[Request]) -> Judged | None:
        """What `append` is likely to do; asked in any thread while it is not at work.

        Who made the requests has them in the processor's cache, and the thread that appends does not.
        """
        return judge_ahead(requests, self._now_us, self._memory)

    def append(self, requests: Sequence[Request], ahead: Judged | None = None) -> list[Appended | RunfoldError]:
        """Append for all callers; returns after the commit is durable. Raises sqlite3.Error, OSError, BadRequest."""
        with self.locked():
            # The log may have moved to other machines since this process opened it.
            if os.access(self._mirror_path, os.F_OK):
                refuse_mirror(self._data)
            self._let_journal_grow(len(requests))
            outcomes, anchor = append_group(self.connection, requests, self._now_us, self._memory, ahead)
            self._publish(anchor)
        return outcomes

    def _let_journal_grow(self, requests: int) -> None:
        """Have the journal hold more while many append at once, and a while longer.

        Each commit then writes pages of the indexes again, most where ids are drawn by chance, and only the last of
        each goes into the log's file. A lone caller would wait for the journal to grow, and save nothing.
        """
        self._busy = max(requests, self._busy - 1)
        pages = JOURNAL_PAGES_BUSY if self._busy >= BUSY_REQUESTS else JOURNAL_PAGES
        if pages != self._journal_pages:
            self.connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
            self._journal_pages = pages

    @contextmanager
    def rewriting(self, what: str, *, lifting: Sequence[str] = ()) -> Generator["Rewriting"]:
        """One transaction that may change what is stored; the file changes it announced follow its commit.

        `lifting` names the triggers that forbid what it does: nobody else can write while they are gone. `what` names
        its failpoints.
        """
        self.connection.execute("PRAGMA secure_delete = ON")
        with self.locked():
            # What it changes, no other connection has committed.
            self._memory.forget()
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                query = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
                triggers = [(name, sql) for name, sql in self.connection.execute(query).fetchall() if name in lifting]
                for name, _ in triggers:
                    self.connection.execute(f"DROP TRIGGER {name}")
                rewriting = Rewriting(self.connection, self._now_us())
                yield rewriting
                for _, sql in triggers:
                    self.connection.execute(sql)
                reach(f"{what}.before_commit")
                self.connection.execute("COMMIT")
                reach(f"{what}.committed")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                settle(self._data, self.connection)
                raise
            for anchor in rewriting.anchors:
                self._publish(anchor)
            settle(self._data, self.connection)
            reach(f"{what}.settled")

    def forget(self, texts: Sequence[bytes]) -> bool:
        """Whether the log's file holds none of these bytes, in no freed page and no journal either."""
        with self.locked():
            if self._checkpoint() and not _holds(self._data / LOG_FILE, texts):
                return True
            # Pages that were split before may have left a copy; only a file written anew has none.
            self.connection.execute("VACUUM")
            return self._checkpoint() and not _holds(self._data / LOG_FILE, texts)

    def scrub(self) -> bool:
        """Whether what was taken is out of the journal too; a reader who stands still keeps it there for a while."""
        with self.locked():
            return self._checkpoint()

    def _checkpoint(self) -> bool:
        is_busy: int = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not is_busy

    def close(self) -> None:
        """Seal what is not yet sealed, checkpoint, and let go of the file."""
        try:
            # Who stands still with the lock keeps nobody here: whoever closes the log next seals it.
            with suppress(Unavailable), self.locked():
                with suppress(sqlite3.Error):
                    self.connection.execute("BEGIN IMMEDIATE")
                    position = self.connection.execute("SELECT position FROM head").fetchone()[0]
                    anchor = write_anchor(self.connection, position, at_least=1)
                    self.connection.execute("COMMIT")
                    self._publish(anchor)
                self.connection.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file without another write: after a failed commit nothing on this connection is retried."""
        try:
            self._anchors.wait()
            self.connection.close()
        finally:
            # Asked twice, it must not close what somebody else has opened under that number since.
            lock, self._lock = self._lock, -1
            if lock >= 0:
                os.close(lock)

    def locked(self) -> AbstractContextManager[None]:
        """The lock that every process takes round what it writes. Raises Unavailable."""
        # SQLite's own busy handler is not fair between processes; this is, and it covers checkpoints too.
        return self._turns

    def _publish(self, anchor: str | None) -> None:
        # The events are committed and so is the anchor's row: a full disk here must not refuse them.
        if anchor is not None:
            self._anchors.add(anchor)


class Rewriting:
    """What a rewriting transaction may use; `anchors` are published when it is committed."""

    def __init__(self, connection: sqlite3.Connection, now_us: int) -> None:
        self.connection = connection
        self.now_us = now_us
        self.anchors: list[str] = []

    def append(self, stream: str, events: Sequence[NewEvent]) -> None:
        """Append after whatever the stream holds. Raises RunfoldError."""
        for start in range(0, len(events), APPEND_EVENTS_MAX):
            head = self.connection.execute("SELECT position FROM heads WHERE run_id = ?", (stream,)).fetchone()
            request = prepare(stream, events[start : start + APPEND_EVENTS_MAX], 0 if head is None else head[0])
            (outcome,), anchor = append_within(self.connection, [request], self.now_us)
            if isinstance(outcome, RunfoldError):
                raise outcome
            if anchor is not None:
                self.anchors.append(anchor)


def bring_log_forward(data: Path) -> None:
    """Have the log of a folder in this format, a mirror's too, before anybody reads it.

    Raises BadRequest, Unavailable, Damaged.
    """
    with _telling(data):
        lock = _lock_file(data)
        try:
            with FileLock(lock, data / LOCK_FILE):
                _open(data / LOG_FILE, of_one_thread=True).close()
        finally:
            os.close(lock)


def _lock_file(data: Path) -> int:
    return os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def _telling(data: Path) -> Generator[None]:
    """What keeps a log from being opened, told. Raises Unavailable."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        unwritable = "make the folder writable, or choose another with --data; nothing was changed"
        raise Unavailable(
            f"the log in `{data}` cannot be opened for writing: {error}",
            hint=REPAIR_HINT if is_of_disk(error) else unwritable,
        ) from error


def _holds(path: Path, texts: Sequence[bytes]) -> bool:
    """Whether a file holds one of the texts, also across the edges of what is read at once."""
    overlap = max(map(len, texts), default=0)
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            content = rest + chunk
            if any(text in content for text in texts):
                return True
            rest = content[-overlap:] if overlap else b""
    return False


def _open(path: Path, *, of_one_thread: bool) -> sqlite3.Connection:
    # An existing file is judged read-only, so a foreign or newer one is left as it was.
    if not _is_log(path):
        _make(path)
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_MS / 1000,
        cached_statements=STATEMENTS_KEPT_MAX,
        check_same_thread=of_one_thread,
    )
    try:
        _prepare(connection)
        if is_old(connection):
            bring_forward(connection, SCHEMA.read_text(encoding="utf-8"))
        check_file(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_log(path: Path) -> bool:
    """False where there is none yet. Raises BadRequest for a file that is another's."""
    if not path.exists() or not path.stat().st_size:
        return False
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        return check_file(connection, path, oldest=OLD_VERSION)
    finally:
        connection.close()


def _make(path: Path) -> None:
    """Make a log under another name and give it its own only when it is whole: a failure leaves no half of one."""
    new = path.with_name(f"{path.name}.new")
    _remove(new)
    try:
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            _prepare(connection)
            connection.executescript("BEGIN IMMEDIATE;\n" + SCHEMA.read_text(encoding="utf-8"))
            connection.execute("INSERT INTO head VALUES (1, ?, 0, 0, 0)", (str(uuid.uuid4()),))
            connection.execute("COMMIT")
            moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if moved != (0, 0, 0):
                raise sqlite3.OperationalError("the new log could not be written")
        # A journal of the empty file that was here is not this log's.
        _remove(path)
        os.replace(new, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            _remove(new)
        raise


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # Acknowledged means durable: NORMAL loses acknowledged events in a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")

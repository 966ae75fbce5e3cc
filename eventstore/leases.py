"""Which worker holds a run's claim, and until when: rows beside the log, never facts of it."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from eventstore.durable import make_private
from eventstore.sqlite3_module import sqlite3
from runfold.errors import Fenced, Unavailable

LEASES_FILE = "leases.db"
LEASE_SECONDS = 30.0
BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    run_id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    claim INTEGER NOT NULL,
    owner TEXT NOT NULL,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started_at TEXT NOT NULL,
    expires_monotonic_us INTEGER NOT NULL, -- CLOCK_MONOTONIC of `boot_id`: sleep does not expire a lease.
    expires_wall_us INTEGER NOT NULL       -- For other hosts.
) STRICT
"""
# Who waits at a terminal for a run to go on: he has no claim, and is there as long as his process is.
_WAITING = """
CREATE TABLE IF NOT EXISTS waiting (
    run_id TEXT NOT NULL,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started_at TEXT NOT NULL,
    PRIMARY KEY (run_id, host, pid)
) STRICT
"""
# Which workers are there, also those that drive nothing now.
_WORKERS = """
CREATE TABLE IF NOT EXISTS workers (
    name TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    expires_wall_us INTEGER NOT NULL -- Who is killed says nothing any more.
) STRICT
"""
WORKERS_MAX = 1_000  # Of one folder; it has one, and those that others left.
WAITING_MAX = 1_000  # Terminals of one host that are looked at.


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    tenant: str
    claim: int
    owner: str
    host: str
    boot_id: str
    pid: int
    pid_started_at: str
    expires_monotonic_us: int = 0
    expires_wall_us: int = 0


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    host: str
    boot_id: str
    pid: int
    pid_started_at: str


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def wall_us() -> int:
    return time.time_ns() // 1000


class Leases:
    """One connection; calls come one at a time, from whatever thread. Each may raise Unavailable."""

    def __init__(self, connection: Any, monotonic_us: Callable[[], int], wall_us: Callable[[], int]) -> None:
        self._connection = connection
        self._monotonic_us = monotonic_us
        self._wall_us = wall_us

    @classmethod
    def open(
        cls, data: Path, *, monotonic_us: Callable[[], int] = monotonic_us, wall_us: Callable[[], int] = wall_us
    ) -> "Leases":
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(OSError):  # SQLite says what is wrong there.
            make_private(data / LEASES_FILE)
        connection = sqlite3.connect(
            data / LEASES_FILE, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A lease lost with the power is lost with its boot anyway.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_SCHEMA)
            connection.execute(_WAITING)
            connection.execute(_WORKERS)
        except sqlite3.OperationalError as error:
            connection.close()
            raise Unavailable(
                f"the leases in `{data}` cannot be opened: {error}",
                hint="free or repair the disk; nothing was started, and what was acknowledged is kept",
            ) from error
        return cls(connection, monotonic_us, wall_us)

    @classmethod
    def open_reader(cls, data: Path) -> "Leases | None":
        """To look only; None where no lease was ever taken."""
        path = data / LEASES_FILE
        if not path.exists():
            return None
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        return cls(connection, monotonic_us, wall_us)

    def close(self) -> None:
        self._connection.close()

    def take(self, lease: Lease, *, seconds: float = LEASE_SECONDS) -> Lease:
        """Write the lease of a new claim over any older one of the run.

        Raises Fenced where a newer claim has one, or another worker holds one of the same claim: of two that want
        it the log lets one win, whose lease must then be his own.
        """
        monotonic_us, wall_us = self._ends(seconds)
        taken = msgspec.structs.replace(lease, expires_monotonic_us=monotonic_us, expires_wall_us=wall_us)
        cursor = self._execute(
            "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (run_id) DO UPDATE SET tenant = excluded.tenant, claim = excluded.claim,"
            " owner = excluded.owner, host = excluded.host, boot_id = excluded.boot_id, pid = excluded.pid,"
            " pid_started_at = excluded.pid_started_at, expires_monotonic_us = excluded.expires_monotonic_us,"
            " expires_wall_us = excluded.expires_wall_us"
            " WHERE excluded.claim > leases.claim OR excluded.claim = leases.claim AND ("
            " excluded.owner = leases.owner OR leases.host <> excluded.host AND leases.expires_wall_us <= ?"
            " OR leases.host = excluded.host AND"
            " (leases.boot_id <> excluded.boot_id OR leases.expires_monotonic_us <= ?))",
            (*msgspec.structs.astuple(taken), self._wall_us(), self._monotonic_us()),
        )
        if not cursor.rowcount:
            owner = self._execute("SELECT owner FROM leases WHERE run_id = ?", (lease.run_id,)).fetchone()
            raise Fenced(
                f"run `{lease.run_id}` is held by {owner[0] if owner else 'another worker'}",
                hint=f"`runfold status {lease.run_id}` says since when",
                run_id=lease.run_id,
            )
        return taken

    def renew(self, run_id: str, claim: int, *, seconds: float = LEASE_SECONDS) -> bool:
        """Extend the lease; False when it is no longer this claim's."""
        cursor = self._execute(
            "UPDATE leases SET expires_monotonic_us = ?, expires_wall_us = ? WHERE run_id = ? AND claim = ?",
            (*self._ends(seconds), run_id, claim),
        )
        return bool(cursor.rowcount)

    def release(self, run_id: str, claim: int) -> None:
        self._execute("DELETE FROM leases WHERE run_id = ? AND claim = ?", (run_id, claim))

    def of_host(self, host: str) -> list[Lease]:
        rows = self._execute("SELECT * FROM leases WHERE host = ? ORDER BY run_id", (host,)).fetchall()
        return [Lease(**dict(zip(Lease.__struct_fields__, row, strict=True))) for row in rows]

    def every(self) -> list[Lease]:
        rows = self._execute("SELECT * FROM leases ORDER BY run_id").fetchall()
        return [Lease(**dict(zip(Lease.__struct_fields__, row, strict=True))) for row in rows]

    def expired(self, host: str, boot_id: str, *, now_monotonic_us: int | None = None) -> list[Lease]:
        """Leases of this host that ran out, or were taken before it booted."""
        now = self._monotonic_us() if now_monotonic_us is None else now_monotonic_us
        return [lease for lease in self.of_host(host) if lease.boot_id != boot_id or lease.expires_monotonic_us <= now]

    def wait(self, waiting: Waiting) -> None:
        """Say that a process waits for the run to go on; asked twice, once."""
        self._execute("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?)", msgspec.structs.astuple(waiting))

    def leave(self, waiting: Waiting) -> None:
        self._execute(
            "DELETE FROM waiting WHERE run_id = ? AND host = ? AND pid = ?",
            (waiting.run_id, waiting.host, waiting.pid),
        )

    def waiting(self, host: str) -> list[Waiting]:
        """Who said on this host that he waits, be he still there or not."""
        rows = self._execute("SELECT * FROM waiting WHERE host = ? LIMIT ?", (host, WAITING_MAX)).fetchall()
        return [Waiting(**dict(zip(Waiting.__struct_fields__, row, strict=True))) for row in rows]

    def attend(self, name: str, host: str, *, seconds: float = LEASE_SECONDS) -> None:
        """Say that a worker is there for so long from now; who fell silent before is forgotten."""
        self._execute("DELETE FROM workers WHERE expires_wall_us <= ?", (self._wall_us(),))
        self._execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (name, host, self._ends(seconds)[1]))

    def retire(self, name: str) -> None:
        """Say that a worker is there no more."""
        self._execute("DELETE FROM workers WHERE name = ?", (name,))

    def attending(self) -> list[tuple[str, str]]:
        """Name and host of the workers that are there."""
        known = "SELECT 1 FROM sqlite_master WHERE name = 'workers' LIMIT 1"
        if self._execute(known).fetchone() is None:
            return []  # An older version wrote the file, and no worker came since.
        rows = self._execute(
            "SELECT name, host FROM workers WHERE expires_wall_us > ? ORDER BY name LIMIT ?",
            (self._wall_us(), WORKERS_MAX),
        ).fetchall()
        return [(name, host) for name, host in rows]

    def _execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"the leases cannot be read or written now: {error}",
                hint="free or repair the disk, or end what holds `leases.db`; what was acknowledged is kept",
            ) from error

    def _ends(self, seconds: float) -> tuple[int, int]:
        us = int(seconds * 1_000_000)
        return self._monotonic_us() + us, self._wall_us() + us

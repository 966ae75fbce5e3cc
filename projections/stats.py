"""How the work goes: runs by hour and outcome with their durations, kept as counters and never counted again."""

import math
from collections.abc import Iterable

import msgspec
from msgspec import convert

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, View
from runfold.envelope import SYSTEM_STREAM, Fact, time_text
from runfold.events import (
    RunArchived,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunResumed,
    RunStarted,
    RunStopped,
)
from runfold.state import RESTING

HOUR_US = 3_600_000_000
ALL_HOURS = -1  # Beside the hours, the sums of them all.
BUCKETS_PER_DOUBLING = 8  # A percentile is right to 5 %.
RUNS_HELD_MAX = 4_096
OUTCOMES = tuple(sorted(RESTING))
_DDL = (
    """CREATE TABLE stats (
        tenant TEXT NOT NULL,
        hour INTEGER NOT NULL, -- Since 1970 in UTC, by when the log recorded it; -1: the sum of all.
        name TEXT NOT NULL, -- created, an outcome, duration_ms, or `~` and the number of a bucket of durations.
        value INTEGER NOT NULL,
        PRIMARY KEY (tenant, hour, name)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE stats_runs (
        run_id TEXT PRIMARY KEY,
        started_at_us INTEGER,
        hour INTEGER, -- Of the rest that counts for this run; null while it goes on.
        outcome TEXT,
        duration_ms INTEGER
    ) STRICT, WITHOUT ROWID""",
)


class Day(msgspec.Struct, frozen=True, kw_only=True):
    day: str
    created: int
    by_status: dict[str, int]


class RunStats(msgspec.Struct, frozen=True, kw_only=True):
    """A run counts where it came to rest last. `failure_rate` is of those that completed or failed."""

    since: str
    created: int
    by_status: dict[str, int]
    failure_rate: float | None
    duration_ms_mean: float | None
    duration_ms_p50: float | None
    duration_ms_p95: float | None
    days: list[Day]
    active: dict[str, int]


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    depth: int
    oldest_run_id: str | None
    oldest_at: str | None
    active: dict[str, int]


def run_stats(connection: sqlite3.Connection, *, tenant: str | None, since_us: int) -> RunStats:
    """Whole hours from the one of `since_us` on."""
    since_hour = since_us // HOUR_US
    rows = connection.execute(
        """SELECT hour / 24, name, sum(value) FROM stats WHERE hour >= ?1 AND (?2 IS NULL OR tenant = ?2)
        GROUP BY 1, 2 ORDER BY 1""",
        (since_hour, tenant),
    ).fetchall()
    sums: dict[str, int] = {}
    days: dict[int, dict[str, int]] = {}
    for day, name, value in rows:
        sums[name] = sums.get(name, 0) + value
        days.setdefault(day, {})[name] = value
    ended = sum(sums.get(name, 0) for name in OUTCOMES)
    judged = sums.get("completed", 0) + sums.get("failed", 0)
    buckets = {int(name[1:]): count for name, count in sums.items() if name.startswith("~") and count}
    measured = sum(buckets.values())
    return RunStats(
        since=time_text(since_hour * HOUR_US),
        created=sums.get("created", 0),
        by_status=_outcomes(sums) if ended else {},
        failure_rate=sums.get("failed", 0) / judged if judged else None,
        duration_ms_mean=sums.get("duration_ms", 0) / measured if measured else None,
        duration_ms_p50=percentile(buckets, 0.50),
        duration_ms_p95=percentile(buckets, 0.95),
        days=[
            Day(day=time_text(day * 24 * HOUR_US)[:10], created=names.get("created", 0), by_status=_outcomes(names))
            for day, names in days.items()
        ],
        active=_active(connection, tenant),
    )


def all_time(connection: sqlite3.Connection) -> dict[str, int]:
    """The sums of all tenants since the log began, by name."""
    rows = connection.execute("SELECT name, sum(value) FROM stats WHERE hour = ? GROUP BY name", (ALL_HOURS,))
    return dict(rows.fetchall())


def queue(connection: sqlite3.Connection, *, tenant: str | None) -> Queue:
    """How many runs wait for a worker, and since when the first of them."""
    active = _active(connection, tenant)
    oldest = connection.execute(
        """SELECT run_id, created_at_us FROM runs WHERE status = 'queued' AND (?1 IS NULL OR tenant = ?1)
        ORDER BY created_at_us, run_id LIMIT 1""",
        (tenant,),
    ).fetchone()
    return Queue(
        depth=active.get("queued", 0),
        oldest_run_id=None if oldest is None else oldest[0],
        oldest_at=None if oldest is None else time_text(oldest[1]),
        active=active,
    )


def bucket_of(duration_ms: int) -> int:
    return int(math.log2(duration_ms + 1) * BUCKETS_PER_DOUBLING)


def percentile(buckets: dict[int, int], share: float) -> float | None:
    """The middle of the bucket in which that share of the durations is reached."""
    left = math.ceil(sum(buckets.values()) * share)
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return round(2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING) - 1, 3)
    return None


def _outcomes(names: dict[str, int]) -> dict[str, int]:
    return {name: names[name] for name in OUTCOMES if names.get(name)}


def _active(connection: sqlite3.Connection, tenant: str | None) -> dict[str, int]:
    rows = connection.execute(
        """SELECT status, count(*) FROM runs WHERE status NOT IN ('completed', 'failed', 'cancelled', 'stopped')
        AND (?1 IS NULL OR tenant = ?1) GROUP BY status ORDER BY status""",
        (tenant,),
    )
    return {status: count for status, count in rows.fetchall() if status}


class _Counted(msgspec.Struct):
    started_at_us: int | None = None
    hour: int | None = None
    outcome: str | None = None
    duration_ms: int | None = None


class _Summed(msgspec.Struct, frozen=True):
    """What the summary of a trimmed run says of when it was."""

    queued_recorded_at_us: int
    started_at_us: int | None
    ended_recorded_at_us: int
    ended_at_us: int
    outcome: str


class StatsFold:
    def __init__(self) -> None:
        self._sums: dict[tuple[str, int, str], int] = {}
        self._runs: dict[str, _Counted] = {}
        self._changed: set[str] = set()

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        if recorded.run_id == SYSTEM_STREAM:
            if isinstance(event, RunArchived):
                self._count_trimmed(connection, recorded, event)
            return
        run = self._run(connection, recorded.run_id)
        self._changed.add(recorded.run_id)
        match event:
            case RunQueued() if run.outcome is not None:
                pass  # It comes back from an archive, and was counted.
            case RunQueued():
                self._add(recorded.tenant, recorded.recorded_at_us // HOUR_US, ["created"], 1)
            case RunStarted():
                run.started_at_us = recorded.at_us if run.started_at_us is None else run.started_at_us
            case RunResumed():
                self._count(recorded.tenant, run, -1)
                run.hour = run.outcome = run.duration_ms = None
            case RunCompleted() | RunFailed() | RunCancelled() | RunStopped():
                self._count(recorded.tenant, run, -1)
                run.hour, run.outcome = recorded.recorded_at_us // HOUR_US, recorded.type.removeprefix("run_")
                started = run.started_at_us
                run.duration_ms = None if started is None else max(0, recorded.at_us - started) // 1_000
                self._count(recorded.tenant, run, 1)
            case _:
                pass

    def _count_trimmed(self, connection: sqlite3.Connection, recorded: Fact, event: RunArchived) -> None:
        """A run whose events are gone counts as before; who has folded them has counted it."""
        run, counted = self._run(connection, event.run_id), event.summary
        if run.outcome is not None or not isinstance(counted, dict):
            return
        said = convert(counted, _Summed)
        self._changed.add(event.run_id)
        self._add(recorded.tenant, said.queued_recorded_at_us // HOUR_US, ["created"], 1)
        run.started_at_us, run.hour, run.outcome = (
            said.started_at_us,
            said.ended_recorded_at_us // HOUR_US,
            said.outcome,
        )
        if said.started_at_us is not None:
            run.duration_ms = max(0, said.ended_at_us - said.started_at_us) // 1_000
        self._count(recorded.tenant, run, 1)

    def _count(self, tenant: str, run: _Counted, sign: int) -> None:
        """Add a run that came to rest, or take it away again."""
        if run.hour is None or run.outcome is None:
            return
        self._add(tenant, run.hour, [run.outcome], sign)
        if run.duration_ms is not None:
            self._add(tenant, run.hour, ["duration_ms"], sign * run.duration_ms)
            self._add(tenant, run.hour, [f"~{bucket_of(run.duration_ms)}"], sign)

    def _add(self, tenant: str, hour: int, names: Iterable[str], value: int) -> None:
        for name in names:
            for key in ((tenant, hour, name), (tenant, ALL_HOURS, name)):
                self._sums[key] = self._sums.get(key, 0) + value

    def _run(self, connection: sqlite3.Connection, run_id: str) -> _Counted:
        known = self._runs.get(run_id)
        if known is None:
            row = connection.execute(
                "SELECT started_at_us, hour, outcome, duration_ms FROM stats_runs WHERE run_id = ?", (run_id,)
            ).fetchone()
            known = self._runs[run_id] = _Counted(*(row or ()))
        return known

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO stats VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(*key, value) for key, value in self._sums.items()],
        )
        # A sum of nothing is no row, whether what it held was taken away again or has never been.
        connection.executemany(
            "DELETE FROM stats WHERE tenant = ? AND hour = ? AND name = ? AND value = 0",
            [key for key, value in self._sums.items() if value <= 0],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO stats_runs VALUES (?, ?, ?, ?, ?)",
            [(run_id, *msgspec.structs.astuple(self._runs[run_id])) for run_id in sorted(self._changed)],
        )
        self._sums.clear()
        self._changed.clear()
        if len(self._runs) > RUNS_HELD_MAX:
            self._runs.clear()

    def forget(self) -> None:
        self._sums.clear()
        self._changed.clear()
        self._runs.clear()


_WANTED = frozenset(
    [
        *("run_queued", "run_started", "run_resumed", "run_completed", "run_failed", "run_cancelled", "run_stopped"),
        "run_archived",
    ]
)
VIEW = View(
    name="stats",
    revision=1,
    tables=("stats", "stats_runs"),
    ddl=_DDL,
    make_fold=StatsFold,
    wants=_WANTED.__contains__,
    system=True,
    sums=True,
)

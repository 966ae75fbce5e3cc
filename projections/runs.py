"""The runs: one row a run, with the columns that people filter and sort by, and the whole fold beside them."""

from typing import Any, cast

import msgspec
from msgspec.structs import replace

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, RunCache, View, decode_run, encode_run
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.events import RunArchived
from runfold.report import duration_us
from runfold.snapshot import Snapshot, snapshot
from runfold.state import Run, new_run

RETRIES_SHOWN_MAX = 50
_COUNT_ONE = """INSERT INTO run_counts VALUES ({0}.tenant, COALESCE({0}.workflow, ''), {0}.status, 1)
    ON CONFLICT DO UPDATE SET runs = runs + 1;"""
_THESE = "WHERE tenant = {0}.tenant AND workflow = COALESCE({0}.workflow, '') AND status = {0}.status"
_COUNT_ONE_LESS = f"UPDATE run_counts SET runs = runs - 1 {_THESE}; DELETE FROM run_counts {_THESE} AND runs = 0;"  # noqa: S608
_DDL = (
    # With the fields of a snapshot, so that rows of another shape are known as of another making.
    f"""CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        status TEXT NOT NULL, -- Empty before the first event that gives one.
        workflow TEXT,
        title TEXT NOT NULL,
        created_at_us INTEGER NOT NULL,
        started_at_us INTEGER,
        completed_at_us INTEGER,
        duration_us INTEGER,
        cost_micros INTEGER,
        labels TEXT NOT NULL, -- A JSON object of texts.
        version INTEGER NOT NULL,
        position INTEGER NOT NULL, -- Of the run's last event.
        retry_of TEXT,
        body BLOB NOT NULL, -- The folded run as JSON.
        shown BLOB NOT NULL -- Its snapshot as JSON, ready for a list: {", ".join(Snapshot.__struct_fields__)}.
    ) STRICT""",
    # Kept by the triggers, so that no list has to count a hundred thousand runs.
    """CREATE TABLE run_counts (
        tenant TEXT NOT NULL,
        workflow TEXT NOT NULL, -- Empty where a run has none.
        status TEXT NOT NULL,
        runs INTEGER NOT NULL,
        PRIMARY KEY (tenant, workflow, status)
    ) STRICT, WITHOUT ROWID""",
    f"CREATE TRIGGER runs_come AFTER INSERT ON runs BEGIN {_COUNT_ONE.format('NEW')} END",
    f"CREATE TRIGGER runs_go AFTER DELETE ON runs BEGIN {_COUNT_ONE_LESS.format('OLD')} END",
    f"""CREATE TRIGGER runs_change AFTER UPDATE ON runs
        WHEN (OLD.tenant, OLD.workflow, OLD.status) IS NOT (NEW.tenant, NEW.workflow, NEW.status)
        BEGIN {_COUNT_ONE_LESS.format("OLD")} {_COUNT_ONE.format("NEW")} END""",
    "CREATE INDEX runs_created ON runs (created_at_us, run_id)",
    # All that a list filters, counts and sorts by, so that none of the folds beside it are read for that.
    """CREATE INDEX runs_listed ON runs (tenant, created_at_us, run_id, status, workflow, duration_us, cost_micros,
        title, labels)""",
    # The same in the other orders, for who filters by what is short: else a page by cost sorts all runs.
    "CREATE INDEX runs_by_status ON runs (tenant, status, run_id, workflow, created_at_us)",
    "CREATE INDEX runs_by_cost ON runs (tenant, COALESCE(cost_micros, -1), run_id, status, workflow, created_at_us)",
    """CREATE INDEX runs_by_duration ON runs (tenant, COALESCE(duration_us, -1), run_id, status, workflow,
        created_at_us)""",
    "CREATE INDEX runs_retried ON runs (retry_of) WHERE retry_of IS NOT NULL",
    # Few of many runs are active, and what is overdue is looked for every second.
    "CREATE INDEX runs_active ON runs (status) WHERE status NOT IN ('completed', 'failed', 'cancelled', 'stopped')",
)


def get_run(connection: sqlite3.Connection, run_id: str, *, tenant: str | None) -> Snapshot | None:
    """The run; None where it is unknown or of another tenant, which must look the same."""
    row = connection.execute(
        "SELECT body, position FROM runs WHERE run_id = ?1 AND (?2 IS NULL OR tenant = ?2)", (run_id, tenant)
    ).fetchone()
    if row is None:
        return None
    found = snapshot(decode_run(row[0]), position=row[1])
    retries = connection.execute(
        # Named, or SQLite goes through every run of the tenant to have them in order.
        """SELECT run_id FROM runs INDEXED BY runs_retried WHERE retry_of = ? AND tenant = ?
        ORDER BY created_at_us, run_id LIMIT ?""",
        (run_id, found.tenant, RETRIES_SHOWN_MAX),
    ).fetchall()
    lineage = replace(found.lineage, retries=tuple(name for (name,) in retries))
    return replace(found, lineage=lineage)


def get_fold(connection: sqlite3.Connection, run_id: str) -> Run | None:
    """The folded run itself, of any tenant."""
    row = connection.execute("SELECT body FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else decode_run(row[0])


def find_run_ids(connection: sqlite3.Connection, prefix: str, *, tenant: str | None, limit: int) -> list[str]:
    """The ids that begin with this text, the newest run first."""
    rows = connection.execute(
        """SELECT run_id FROM runs WHERE substr(run_id, 1, length(?1)) = ?1 AND (?2 IS NULL OR tenant = ?2)
        ORDER BY created_at_us DESC, run_id DESC LIMIT ?3""",
        (prefix, tenant, limit),
    ).fetchall()
    return [row[0] for row in rows]


def active_runs(connection: sqlite3.Connection) -> list[Run]:
    """The runs of all tenants that do not rest."""
    rows = connection.execute(
        "SELECT body FROM runs WHERE status NOT IN ('completed', 'failed', 'cancelled', 'stopped')"
    ).fetchall()
    return [decode_run(body) for (body,) in rows]


_COLUMNS = (
    "run_id, tenant, status, workflow, title, created_at_us, started_at_us, completed_at_us, duration_us, cost_micros,"
    " labels, version, position, retry_of, body, shown"
)
# Not REPLACE, which takes the row out and puts it in again, unseen by the triggers.
_PUT = (
    f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * (_COLUMNS.count(',') + 1))}) ON CONFLICT DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
)
_encode = msgspec.json.Encoder().encode


def _drop(connection: sqlite3.Connection, run_id: str) -> None:
    connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))


class RunsFold:
    def __init__(self) -> None:
        # Imported by who folds: most commands read rows that another process has written.
        from runfold.advancing import Advancing

        self._advancing = Advancing
        self._runs = RunCache("SELECT body, position FROM runs WHERE run_id = ?")
        self._changed: dict[str, Advancing] = {}
        """Of this page; the others are in the cache."""

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        run_id = recorded.run_id
        changed = self._changed.get(run_id)
        # A run that comes back from an archive begins anew, whatever is listed of it.
        if changed is None or recorded.version == 1:
            if run_id == SYSTEM_STREAM:
                self._list_trimmed(recorded, event)
                return
            run = new_run(run_id, recorded.tenant) if recorded.version == 1 else self._runs.get(connection, recorded)
            changed = self._changed[run_id] = self._advancing(run)
        changed.take(event, recorded.at_us)
        changed.position = recorded.position

    def _list_trimmed(self, recorded: Fact, event: Decoded) -> None:
        """A run of which nothing but its summary is kept."""
        from runfold.evolve import with_summary

        summary: Any = event.summary if isinstance(event, RunArchived) else None
        if isinstance(event, RunArchived) and isinstance(summary, dict):
            position = cast("dict[str, Any]", summary).get("position")
            run = with_summary(new_run(event.run_id, recorded.tenant), event)
            changed = self._changed[event.run_id] = self._advancing(run)
            changed.position = position if isinstance(position, int) else recorded.position

    def write(self, connection: sqlite3.Connection) -> None:
        for changed in self._changed.values():
            self._runs.put(changed.run(), changed.position)
        self._changed.clear()
        connection.executemany(
            _PUT,
            [
                (
                    run.run_id,
                    run.tenant,
                    run.status or "",
                    run.workflow,
                    run.title,
                    run.created_at_us,
                    run.started_at_us,
                    run.completed_at_us,
                    duration_us(run),
                    run.cost_micros,
                    msgspec.json.encode(run.labels).decode(),
                    run.version,
                    position,
                    run.retry_of,
                    encode_run(run),
                    _encode(snapshot(run, position=position)),
                )
                for run, position in self._runs.written()
            ],
        )
        self._runs.settle()

    def forget(self) -> None:
        self._changed.clear()
        self._runs.clear()


def _reads(type_name: str) -> bool:
    from runfold.evolve import CHANGING_NOTHING

    return type_name not in CHANGING_NOTHING


VIEW = View(
    name="runs",
    revision=10,
    tables=("runs", "run_counts"),
    ddl=_DDL,
    make_fold=RunsFold,
    reads=_reads,
    system=True,
    drop=_drop,
)

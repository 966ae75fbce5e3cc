"""The list of runs: one row a run, with the columns that people filter and sort by, and the whole fold beside them."""

import base64
from typing import Any, cast, get_args

import msgspec
from msgspec.structs import replace

from eventstore.sqlite3_module import sqlite3
from projections.view import Decoded, RunCache, View, decode_run, encode_run
from runfold.envelope import SYSTEM_STREAM, Recorded, time_us
from runfold.errors import BadRequest
from runfold.events import RunArchived
from runfold.report import duration_us
from runfold.snapshot import Snapshot, snapshot
from runfold.state import Run, Status, new_run

LIMIT_MAX = 200
RETRIES_SHOWN_MAX = 50
OFFSET_MAX = 2**53 - 1
STATUSES: tuple[str, ...] = get_args(Status)
ORDERS = ("asc", "desc")
# What is not known sorts below everything that is, so every sort is a total order and a cursor can stand on it.
_SORT_KEYS = {
    "created_at": "created_at_us",
    "status": "status",
    "duration": "COALESCE(duration_us, -1)",
    "cost": "COALESCE(cost_micros, -1)",
}
_DDL = (
    """CREATE TABLE runs (
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
        body BLOB NOT NULL -- The folded run as JSON.
    ) STRICT""",
    "CREATE INDEX runs_created ON runs (created_at_us, run_id)",
    "CREATE INDEX runs_tenant_created ON runs (tenant, created_at_us, run_id)",
    "CREATE INDEX runs_retried ON runs (retry_of) WHERE retry_of IS NOT NULL",
    # Few of many runs are active, and what is overdue is looked for every second.
    "CREATE INDEX runs_active ON runs (status) WHERE status NOT IN ('completed', 'failed', 'cancelled', 'stopped')",
)


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What to list. `tenant` None means all; times are RFC 3339 with an offset; `label` is `key` or `key=value`."""

    tenant: str | None
    status: tuple[str, ...] = ()
    workflow: str | None = None
    q: str | None = None
    label: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    sort: str = "created_at"
    order: str = "desc"
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """`total` counts all that match, on this page or not; `next_cursor` is null on the last page."""

    items: list[Snapshot]
    total: int
    next_cursor: str | None


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    sort: str
    order: str
    value: int | str
    run_id: str


def list_runs(connection: sqlite3.Connection, wanted: RunFilter) -> RunList:
    """One page of the runs that match. Raises BadRequest, naming the parameter and what is allowed."""
    _check(wanted)
    where, parameters = _where(wanted)
    key = _SORT_KEYS[wanted.sort]
    total: int = connection.execute(f"SELECT count(*) FROM runs WHERE {where}", parameters).fetchone()[0]  # noqa: S608
    if wanted.cursor is not None:
        cursor = _decode_cursor(wanted.cursor, wanted)
        where += f" AND ({key}, run_id) {'>' if wanted.order == 'asc' else '<'} (?, ?)"
        parameters += [cursor.value, cursor.run_id]
    # Every piece of this text is one of ours; what the caller gave is in the parameters.
    rows = connection.execute(
        f"SELECT {key}, run_id, position, body FROM runs WHERE {where}"  # noqa: S608
        f" ORDER BY {key} {wanted.order}, run_id {wanted.order} LIMIT ? OFFSET ?",
        [*parameters, wanted.limit + 1, wanted.offset],
    ).fetchall()
    page = rows[: wanted.limit]
    next_cursor = None
    if len(rows) > wanted.limit:
        value, run_id = page[-1][:2]
        next_cursor = _encode_cursor(_Cursor(wanted.sort, wanted.order, value, run_id))
    items = [snapshot(decode_run(body), position=position) for _, _, position, body in page]
    return RunList(items=items, total=total, next_cursor=next_cursor)


def get_run(connection: sqlite3.Connection, run_id: str, *, tenant: str | None) -> Snapshot | None:
    """The run; None where it is unknown or of another tenant, which must look the same."""
    row = connection.execute(
        "SELECT body, position FROM runs WHERE run_id = ?1 AND (?2 IS NULL OR tenant = ?2)", (run_id, tenant)
    ).fetchone()
    if row is None:
        return None
    found = snapshot(decode_run(row[0]), position=row[1])
    retries = connection.execute(
        "SELECT run_id FROM runs WHERE retry_of = ? AND tenant = ? ORDER BY created_at_us, run_id LIMIT ?",
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


def newest_run_id(connection: sqlite3.Connection, tenant: str | None) -> str | None:
    row = connection.execute(
        """SELECT run_id FROM runs WHERE ?1 IS NULL OR tenant = ?1
        ORDER BY created_at_us DESC, run_id DESC LIMIT 1""",
        (tenant,),
    ).fetchone()
    return None if row is None else row[0]


def active_runs(connection: sqlite3.Connection) -> list[Run]:
    """The runs of all tenants that do not rest."""
    rows = connection.execute(
        "SELECT body FROM runs WHERE status NOT IN ('completed', 'failed', 'cancelled', 'stopped')"
    ).fetchall()
    return [decode_run(body) for (body,) in rows]


def _check(wanted: RunFilter) -> None:
    if wanted.sort not in _SORT_KEYS:
        raise _bad("sort", wanted.sort, f"one of {', '.join(_SORT_KEYS)}")
    if wanted.order not in ORDERS:
        raise _bad("order", wanted.order, f"one of {', '.join(ORDERS)}")
    if not 1 <= wanted.limit <= LIMIT_MAX:
        raise _bad("limit", wanted.limit, f"1 to {LIMIT_MAX}")
    if not 0 <= wanted.offset <= OFFSET_MAX:
        raise _bad("offset", wanted.offset, f"0 to {OFFSET_MAX}")
    if wanted.offset and wanted.cursor is not None:
        raise _bad("offset", wanted.offset, "0 together with `cursor`")
    for status in wanted.status:
        if status not in STATUSES:
            raise _bad("status", status, f"one of {', '.join(STATUSES)}")
    for name in ("tenant", "workflow", "q", "label"):
        text = getattr(wanted, name)
        if text is not None and not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            raise _bad(name, ascii(text), "text without half characters")


def _where(wanted: RunFilter) -> tuple[str, list[Any]]:
    clauses, parameters = ["1"], list[Any]()

    def add(clause: str, *values: Any) -> None:
        clauses.append(clause)
        parameters.extend(values)

    if wanted.tenant is not None:
        add("tenant = ?", wanted.tenant)
    if wanted.status:
        add(f"status IN ({', '.join('?' * len(wanted.status))})", *wanted.status)
    if wanted.workflow is not None:
        add("workflow = ?", wanted.workflow)
    if wanted.created_after is not None:
        add("created_at_us >= ?", _time_us("created_after", wanted.created_after))
    if wanted.created_before is not None:
        add("created_at_us < ?", _time_us("created_before", wanted.created_before))
    if wanted.label is not None:
        key, equals, value = wanted.label.partition("=")
        if not key:
            raise _bad("label", wanted.label, "`key` or `key=value`")
        if equals:
            add("EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ? AND value = ?)", key, value)
        else:
            add("EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ?)", key)
    if wanted.q:
        text = wanted.q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        add(
            r"(run_id LIKE ? ESCAPE '\' OR title LIKE ? ESCAPE '\' OR EXISTS ("
            r"SELECT 1 FROM json_each(labels) WHERE key LIKE ? ESCAPE '\' OR value LIKE ? ESCAPE '\'))",
            f"{text}%",
            *[f"%{text}%"] * 3,
        )
    return " AND ".join(clauses), parameters


def _time_us(name: str, text: str) -> int:
    try:
        return time_us(text)
    except (ValueError, OverflowError):
        raise _bad(name, text, "a time such as 2026-01-31T12:00:00Z") from None


def _encode_cursor(cursor: _Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _decode_cursor(text: str, wanted: RunFilter) -> _Cursor:
    allowed = "the `next_cursor` of a list with the same sort and order"
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        cursor = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=_Cursor)
    except (ValueError, msgspec.DecodeError):
        raise _bad("cursor", ascii(text), allowed) from None
    is_text = isinstance(cursor.value, str)
    if (cursor.sort, cursor.order) != (wanted.sort, wanted.order) or is_text != (wanted.sort == "status"):
        raise _bad("cursor", text, allowed)
    if isinstance(cursor.value, int) and not -(2**63) <= cursor.value < 2**63:
        raise _bad("cursor", text, allowed)
    return cursor


def _bad(name: str, value: object, allowed: str) -> BadRequest:
    return BadRequest(f"`{name}` is `{value}`; allowed: {allowed}", hint=f"change `{name}`, or leave it out")


class RunsFold:
    def __init__(self) -> None:
        # Imported by who folds: most commands read rows that another process has written.
        from runfold.evolve import evolve_decoded

        self._after = evolve_decoded
        self._runs = RunCache("SELECT body, position FROM runs WHERE run_id = ?")

    def apply(self, connection: sqlite3.Connection, recorded: Recorded, event: Decoded) -> None:
        if recorded.run_id == SYSTEM_STREAM:
            self._list_trimmed(recorded, event)
            return
        # A run that comes back from an archive begins anew, whatever is listed of it.
        is_first = recorded.version == 1
        run = new_run(recorded.run_id, recorded.tenant) if is_first else self._runs.get(connection, recorded)
        self._runs.put(self._after(run, recorded, event), recorded.position)

    def _list_trimmed(self, recorded: Recorded, event: Decoded) -> None:
        """A run of which nothing but its summary is kept."""
        from runfold.evolve import with_summary

        summary: Any = event.summary if isinstance(event, RunArchived) else None
        if isinstance(event, RunArchived) and isinstance(summary, dict):
            position = cast("dict[str, Any]", summary).get("position")
            run = with_summary(new_run(event.run_id, recorded.tenant), event)
            self._runs.put(run, position if isinstance(position, int) else recorded.position)

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                )
                for run, position in self._runs.changed()
            ],
        )
        self._runs.settle()

    def forget(self) -> None:
        self._runs.clear()


def _reads(type_name: str) -> bool:
    from runfold.evolve import CHANGING_NOTHING

    return type_name not in CHANGING_NOTHING


VIEW = View(
    name="runs",
    revision=5,
    tables=("runs",),
    ddl=_DDL,
    make_fold=RunsFold,
    reads=_reads,
    system=True,
)

"""The questions to people: one row a question, with its run, its answer and who gave it."""

from typing import Any, Literal

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, View
from runfold.envelope import Fact, time_text
from runfold.events import ApprovalDenied, ApprovalExpired, ApprovalGranted, ApprovalRequested
from runfold.report import usd

LIMIT_MAX = 200
ApprovalStatus = Literal["pending", "granted", "denied", "expired"]
_DDL = (
    """CREATE TABLE approvals (
        run_id TEXT NOT NULL,
        approval_id TEXT NOT NULL,
        position INTEGER NOT NULL, -- Where it was asked.
        tenant TEXT NOT NULL,
        status TEXT NOT NULL,
        kind TEXT NOT NULL,
        summary TEXT NOT NULL,
        amount_micros INTEGER,
        digest TEXT,
        expires_at TEXT,
        requested_at_us INTEGER NOT NULL,
        requested_by TEXT NOT NULL,
        answered_at_us INTEGER,
        answered_by TEXT,
        comment TEXT NOT NULL,
        granted_micros INTEGER,
        PRIMARY KEY (run_id, approval_id)
    ) STRICT""",
    "CREATE INDEX approvals_listed ON approvals (tenant, status, position)",
    # Few of many questions are open, and whose time is over is looked for every second.
    "CREATE INDEX approvals_pending ON approvals (run_id) WHERE status = 'pending'",
)
_TYPES = frozenset({"approval_requested", "approval_granted", "approval_denied", "approval_expired"})


class ApprovalItem(msgspec.Struct, frozen=True, kw_only=True):
    """`amount_usd` is what was asked for, `granted_usd` what was granted; `digest` names what exactly is asked."""

    run_id: str
    approval_id: str
    status: ApprovalStatus
    kind: str
    summary: str
    amount_usd: float | None
    granted_usd: float | None
    digest: str | None
    expires_at: str | None
    requested_at: str
    requested_by: str
    answered_at: str | None
    answered_by: str | None
    comment: str
    position: int


class ApprovalList(msgspec.Struct, frozen=True, kw_only=True):
    items: list[ApprovalItem]
    total: int
    next_cursor: str | None = None


class ApprovalFilter(msgspec.Struct, frozen=True, kw_only=True):
    """`tenant` None means all; the newest first, after `before` (a position) where that is given."""

    tenant: str | None
    run_id: str | None = None
    status: tuple[str, ...] = ()
    limit: int = 50
    before: int | None = None


def list_approvals(connection: sqlite3.Connection, wanted: ApprovalFilter) -> ApprovalList:
    """One page of the questions that match."""
    where, parameters = ["1"], list[Any]()
    for column, value in (("tenant", wanted.tenant), ("run_id", wanted.run_id)):
        if value is not None:
            where.append(f"{column} = ?")
            parameters.append(value)
    if wanted.status:
        where.append(f"status IN ({', '.join('?' * len(wanted.status))})")
        parameters += wanted.status
    matching = " AND ".join(where)
    # Every piece of this text is one of ours; what the caller gave is in the parameters.
    total: int = connection.execute(f"SELECT count(*) FROM approvals WHERE {matching}", parameters).fetchone()[0]  # noqa: S608
    if wanted.before is not None:
        matching += " AND position < ?"
        parameters.append(wanted.before)
    rows = connection.execute(
        f"""SELECT run_id, approval_id, status, kind, summary, amount_micros, granted_micros, digest, expires_at,
        requested_at_us, requested_by, answered_at_us, answered_by, comment, position
        FROM approvals WHERE {matching} ORDER BY position DESC LIMIT ?""",  # noqa: S608
        [*parameters, wanted.limit + 1],
    ).fetchall()
    items = [_item(row) for row in rows[: wanted.limit]]
    return ApprovalList(
        items=items, total=total, next_cursor=str(items[-1].position) if len(rows) > wanted.limit else None
    )


def get_approval(connection: sqlite3.Connection, run_id: str, approval_id: str) -> ApprovalItem | None:
    found = list_approvals(connection, ApprovalFilter(tenant=None, run_id=run_id, limit=LIMIT_MAX)).items
    return next((it for it in found if it.approval_id == approval_id), None)


def _item(row: tuple[Any, ...]) -> ApprovalItem:
    return ApprovalItem(
        run_id=row[0],
        approval_id=row[1],
        status=row[2],
        kind=row[3],
        summary=row[4],
        amount_usd=usd(row[5]),
        granted_usd=usd(row[6]),
        digest=row[7],
        expires_at=row[8],
        requested_at=time_text(row[9]),
        requested_by=row[10],
        answered_at=None if row[11] is None else time_text(row[11]),
        answered_by=row[12],
        comment=row[13],
        position=row[14],
    )


_ASK = """INSERT OR REPLACE INTO approvals VALUES
    (?1, ?2, ?3, ?4, 'pending', ?5, ?6, ?7, ?8, ?9, ?10, ?11, NULL, NULL, '', NULL)"""
_ANSWER = """UPDATE approvals SET status = ?1, answered_at_us = ?2, answered_by = ?3, comment = ?4, granted_micros = ?5
    WHERE run_id = ?6 AND approval_id = ?7"""


class ApprovalsFold:
    def __init__(self) -> None:
        # In the order of the log: a name may be asked anew once it was answered.
        self._changes: list[tuple[str, tuple[Any, ...]]] = []

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        match event:
            case ApprovalRequested():
                asked = (event.kind, event.summary, event.amount_micros, event.digest, event.expires_at)
                whose = (recorded.run_id, event.approval_id, recorded.position, recorded.tenant)
                self._changes.append((_ASK, (*whose, *asked, recorded.at_us, recorded.actor)))
            case ApprovalGranted():
                self._answer(recorded, event.approval_id, "granted", event.comment, event.amount_micros)
            case ApprovalDenied():
                self._answer(recorded, event.approval_id, "denied", event.comment, None)
            case ApprovalExpired():
                self._answer(recorded, event.approval_id, "expired", "", None)
            case _:
                return

    def _answer(self, recorded: Fact, name: str, status: str, comment: str, granted: int | None) -> None:
        answer = (status, recorded.at_us, recorded.actor, comment, granted)
        self._changes.append((_ANSWER, (*answer, recorded.run_id, name)))

    def write(self, connection: sqlite3.Connection) -> None:
        for statement, values in self._changes:
            connection.execute(statement, values)
        self._changes.clear()

    def forget(self) -> None:
        self._changes.clear()


VIEW = View(
    name="approvals",
    revision=1,
    tables=("approvals",),
    ddl=_DDL,
    make_fold=ApprovalsFold,
    wants=_TYPES.__contains__,
)

"""The tenants that have runs: how many, in which status, at what cost, and when the last one came."""

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import time_text
from runfold.report import usd


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """`cost_usd` adds up what is known; null where nothing is."""

    tenant: str
    runs: int
    by_status: dict[str, int]
    cost_usd: float | None
    last_created_at: str


class TenantList(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Tenant]
    total: int
    next_cursor: str | None = None


def list_tenants(connection: sqlite3.Connection, *, limit: int, offset: int) -> TenantList:
    """Those with the most runs first."""
    total: int = connection.execute("SELECT count(DISTINCT tenant) FROM runs").fetchone()[0]
    names = connection.execute(
        """SELECT tenant, count(*), sum(cost_micros), max(created_at_us) FROM runs INDEXED BY runs_listed
        GROUP BY tenant ORDER BY 2 DESC, 1 LIMIT ? OFFSET ?""",
        (limit, offset),
    ).fetchall()
    items = [
        Tenant(
            tenant=tenant,
            runs=runs,
            by_status=_by_status(connection, tenant),
            cost_usd=usd(cost_micros),
            last_created_at=time_text(created_at_us),
        )
        for tenant, runs, cost_micros, created_at_us in names
    ]
    return TenantList(items=items, total=total)


def _by_status(connection: sqlite3.Connection, tenant: str) -> dict[str, int]:
    rows = connection.execute(
        """SELECT status, count(*) FROM runs INDEXED BY runs_listed WHERE tenant = ? AND status <> ''
        GROUP BY status ORDER BY status""",
        (tenant,),
    )
    return dict(rows.fetchall())

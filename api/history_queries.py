"""What the history answers: who did what when, how often, and what caused what."""

from typing import Annotated

import msgspec
from aiohttp import web

from api.answers import view_response
from api.asking import Limit, Position, ViewQuery, query_views
from api.exporting import list_response
from api.guard import SCOPE
from api.routes import QUERY, Route
from api.service import SERVICE, last_of
from eventstore.sqlite3_module import sqlite3
from projections.audit.answers import AuditCount, AuditItem, AuditList, Group, count_audit, find_audit
from projections.audit.question import AuditFilter, AuditQuestion
from projections.causes import Causation, causation, chain_of
from projections.exporting import Format


class AuditQuery(AuditQuestion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`min_position` as in every question; `format` gives all that matches as a file."""

    min_position: Annotated[int, Position] = 0
    format: Format | None = None


class AuditCountsQuery(AuditQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    by: Group = "type"


class AllAuditQuery(AuditQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tenant`: only what concerns it."""

    tenant: str | None = None


class AllAuditCountsQuery(AuditCountsQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tenant`: only what concerns it."""

    tenant: str | None = None


class AuditCounts(msgspec.Struct, frozen=True, kw_only=True):
    items: list[AuditCount]
    total: int
    next_cursor: str | None = None


async def get_audit(request: web.Request) -> web.StreamResponse:
    query: AuditQuery = request[QUERY]
    return await _audit(request, query, request[SCOPE].tenant)


async def get_all_audit(request: web.Request) -> web.StreamResponse:
    query: AllAuditQuery = request[QUERY]
    return await _audit(request, query, query.tenant)


async def _audit(request: web.Request, query: AuditQuery, tenant: str | None) -> web.StreamResponse:
    return await list_response(
        request, find_audit, AuditFilter.of(query, tenant=tenant), query, kind=AuditItem, name="audit"
    )


async def get_audit_counts(request: web.Request) -> web.StreamResponse:
    query: AuditCountsQuery = request[QUERY]
    return await _audit_counts(request, query, request[SCOPE].tenant)


async def get_all_audit_counts(request: web.Request) -> web.StreamResponse:
    query: AllAuditCountsQuery = request[QUERY]
    return await _audit_counts(request, query, query.tenant)


async def _audit_counts(request: web.Request, query: AuditCountsQuery, tenant: str | None) -> web.StreamResponse:
    def count(connection: sqlite3.Connection, wanted: AuditFilter) -> AuditCounts:
        found = count_audit(connection, wanted, by=query.by)
        return AuditCounts(items=found, total=len(found))

    wanted = AuditFilter.of(query, tenant=tenant)
    return await list_response(request, count, wanted, query, kind=AuditCount, name="audit-counts")


class CausesQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the events that this one made; its own causes come whole."""

    limit: Annotated[int, Limit] = 50
    cursor: str | None = None


async def get_causes(request: web.Request) -> web.Response:
    query: CausesQuery = request[QUERY]
    service, run_id, tenant = request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant
    await last_of(service, run_id, tenant)
    chain = await chain_of(service.log, run_id, request.match_info["event"])
    found, freshness = await query_views(
        service, query.min_position, causation, chain, tenant=tenant, limit=query.limit, cursor=query.cursor
    )
    return view_response(found, freshness)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/audit",
        operation="list_audit",
        handler=get_audit,
        summary="Who did what when, newest first",
        needs="viewer",
        query=AuditQuery,
        answer=AuditList,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/audit/counts",
        operation="count_audit",
        handler=get_audit_counts,
        summary="How often, by actor, type, class, run, workflow, tenant, path or day",
        needs="viewer",
        query=AuditCountsQuery,
        answer=AuditCounts,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/admin/audit",
        operation="list_all_audit",
        handler=get_all_audit,
        summary="Who did what when, of all tenants",
        needs="root",
        query=AllAuditQuery,
        answer=AuditList,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/admin/audit/counts",
        operation="count_all_audit",
        handler=get_all_audit_counts,
        summary="How often, of all tenants",
        needs="root",
        query=AllAuditCountsQuery,
        answer=AuditCounts,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/events/{event}/causes",
        operation="get_causes",
        handler=get_causes,
        summary="What made an event, the nearest cause first, and what it made; `event` is its id or its position",
        needs="viewer",
        query=CausesQuery,
        answer=Causation,
    ),
)

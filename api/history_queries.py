"""What the history answers: who did what when, how often, and what caused what."""

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from api.answers import view_response
from api.guard import SCOPE
from api.reading import Limit, ViewQuery, query_views
from api.routes import QUERY, Route
from api.service import SERVICE, last_of
from projections.audit import AuditCount, AuditFilter, AuditList, count_audit, find_audit
from projections.causes import Causation, causation, chain_of
from runfold.events import EventClass


class AuditQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    actor: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")
    run_id: str | None = None
    workflow: str | None = None
    path: str | None = None
    q: str | None = None
    since: str | None = None
    until: str | None = None
    cause: str | None = None
    command: str | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: Annotated[int, Limit] = 50
    cursor: str | None = None


class AuditCountsQuery(AuditQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    by: Literal["actor", "type", "class", "run_id", "workflow", "tenant", "path", "day"] = "type"


class AuditCounts(msgspec.Struct, frozen=True, kw_only=True):
    items: list[AuditCount]
    total: int
    next_cursor: str | None = None


async def get_audit(request: web.Request) -> web.Response:
    query: AuditQuery = request[QUERY]
    found, freshness = await query_views(request.app[SERVICE], query.min_position, find_audit, _wanted(request))
    return view_response(found, freshness)


async def get_audit_counts(request: web.Request) -> web.Response:
    query: AuditCountsQuery = request[QUERY]
    found, freshness = await query_views(
        request.app[SERVICE], query.min_position, count_audit, _wanted(request), by=query.by
    )
    return view_response(AuditCounts(items=found, total=len(found)), freshness)


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


def _wanted(request: web.Request) -> AuditFilter:
    asked: dict[str, Any] = msgspec.structs.asdict(request[QUERY])
    for name in ("by", "min_position"):
        asked.pop(name, None)
    return AuditFilter(tenant=request[SCOPE].tenant, **asked)


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

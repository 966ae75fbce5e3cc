"""What an admin of all tenants sees: every run, how the work goes, what waits, and how far the views have read."""

import asyncio
import re
import time
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from api.answers import json_response, view_response
from api.asking import Limit, ViewQuery, query_views
from api.exporting import list_response
from api.guard import SCOPE
from api.reading import RunsQuery, runs_response
from api.routes import QUERY, Route
from api.run_queries import number_cursor
from api.service import SERVICE
from eventstore.proof.verified import Verified, read_verified
from projections.engine.checkpoints import read_checkpoints
from projections.engine.underway import Underway, read_underway
from projections.exporting import Format
from projections.run_list import RunList
from projections.stats import Queue, RunStats, queue, run_stats
from projections.usage import DAY_US, Cost, CostFilter, CostList, Group, costs
from runfold.envelope import time_us
from runfold.errors import BadRequest

PERIOD_DAYS_MAX = 366
_PERIOD = re.compile(r"([1-9][0-9]{0,4})([hd])")


class StatsQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`period` is such as 24h or 30d."""

    period: str = "24h"


class CostsQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`since` and `until` are days of UTC such as 2026-01-31, both included; `then` parts each group once more."""

    by: Group = "model"
    then: Group | None = None
    run_id: str | None = None
    workflow: str | None = None
    since: str | None = None
    until: str | None = None
    limit: Annotated[int, Limit] = 50
    cursor: str | None = None
    format: Format | None = None


class ViewPlace(msgspec.Struct, frozen=True, kw_only=True):
    """`lag` counts positions up to the log's head; a parked view says at which event and why."""

    name: str
    position: int
    lag: int
    status: Literal["live", "parked"]
    error: str


class ViewList(msgspec.Struct, frozen=True, kw_only=True):
    """`rebuilding` is null while no views are folded anew."""

    items: list[ViewPlace]
    total: int
    next_cursor: str | None
    head: int
    rebuilding: Underway | None


class ProofAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The last whole proof of the data folder; null before the first."""

    verified: Verified | None


async def get_all_runs(request: web.Request) -> web.StreamResponse:
    query: RunsQuery = request[QUERY]
    return await runs_response(request, query, tenant=None)


async def get_stats(request: web.Request) -> web.Response:
    query: StatsQuery = request[QUERY]
    match = _PERIOD.fullmatch(query.period)
    hours = 0 if match is None else int(match[1]) * (24 if match[2] == "d" else 1)
    if not 1 <= hours <= PERIOD_DAYS_MAX * 24:
        hint = f"for example 24h or 30d, at most {PERIOD_DAYS_MAX}d"
        raise BadRequest(f"`period` is {query.period[:40]!a}", hint=hint)
    since_us = time.time_ns() // 1_000 - hours * 3_600_000_000
    found, freshness = await query_views(
        request.app[SERVICE], query.min_position, run_stats, tenant=None, since_us=since_us
    )
    return view_response(found, freshness)


async def get_queue(request: web.Request) -> web.Response:
    query: ViewQuery = request[QUERY]
    found, freshness = await query_views(request.app[SERVICE], query.min_position, queue, tenant=None)
    return view_response(found, freshness)


async def get_views(request: web.Request) -> web.Response:
    checkpoints, _ = await request.app[SERVICE].views.query(read_checkpoints)
    head = (await request.app[SERVICE].log.bounds()).last
    items = [
        ViewPlace(
            name=name,
            position=place.position,
            lag=max(0, head - place.position),
            status="parked" if place.status == "parked" else "live",
            error=place.error,
        )
        for name, place in sorted(checkpoints.items())
    ]
    rebuilding = await asyncio.to_thread(read_underway, request.app[SERVICE].data)
    return json_response(ViewList(items=items, total=len(items), next_cursor=None, head=head, rebuilding=rebuilding))


async def get_proof(request: web.Request) -> web.Response:
    verified = await asyncio.to_thread(read_verified, request.app[SERVICE].data)
    return json_response(ProofAnswer(verified=verified))


async def get_costs(request: web.Request) -> web.StreamResponse:
    return await _costs(request, request[SCOPE].tenant)


async def get_all_costs(request: web.Request) -> web.StreamResponse:
    return await _costs(request, None)


async def _costs(request: web.Request, tenant: str | None) -> web.StreamResponse:
    query: CostsQuery = request[QUERY]
    wanted = CostFilter(
        tenant=tenant,
        by=query.by,
        then=query.then,
        run_id=query.run_id,
        workflow=query.workflow,
        since_day=_day("since", query.since),
        until_day=_day("until", query.until),
        limit=query.limit,
        offset=0 if query.cursor is None else number_cursor(query.cursor),
    )
    return await list_response(
        request, costs, wanted, query, kind=Cost, name="costs",
        at_cursor=lambda wanted, cursor: msgspec.structs.replace(wanted, offset=int(cursor)),
    )  # fmt: skip


def _day(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return time_us(f"{text}T00:00:00Z") // DAY_US
    except (ValueError, OverflowError):
        raise BadRequest(f"`{name}` is {text[:40]!a}", hint="a day of UTC such as 2026-01-31") from None


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/costs",
        operation="list_costs",
        handler=get_costs,
        summary="Tokens and cost by model, provider, day, workflow, run or step",
        needs="viewer",
        query=CostsQuery,
        answer=CostList,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/admin/costs",
        operation="list_all_costs",
        handler=get_all_costs,
        summary="Tokens and cost of all tenants",
        needs="root",
        query=CostsQuery,
        answer=CostList,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/admin/runs",
        operation="list_all_runs",
        handler=get_all_runs,
        summary="The runs of all tenants",
        needs="root",
        query=RunsQuery,
        answer=RunList,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/admin/runs/stats",
        operation="get_run_stats",
        handler=get_stats,
        summary="Runs by outcome and day, failure rate, mean and p95 duration",
        needs="root",
        query=StatsQuery,
        answer=RunStats,
    ),
    Route(
        method="GET",
        path="/api/admin/queue",
        operation="get_queue",
        handler=get_queue,
        summary="What waits for a worker, and since when",
        needs="root",
        query=ViewQuery,
        answer=Queue,
    ),
    Route(
        method="GET",
        path="/api/admin/views",
        operation="list_views",
        handler=get_views,
        summary="How far each view has read, and which are parked",
        needs="root",
        answer=ViewList,
    ),
    Route(
        method="GET",
        path="/api/admin/verified",
        operation="get_verified",
        handler=get_proof,
        summary="When the log, its blobs and the views were last proved, and what was found",
        needs="root",
        answer=ProofAnswer,
    ),
)

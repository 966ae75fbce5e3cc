"""How the server itself does: what its files weigh, how far they are read, who works and who listens."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

import runfold
from api.answers import json_response, view_response
from api.reading import Limit, ViewQuery, query_views
from api.routes import QUERY, Route
from api.service import SERVICE, Service
from eventstore.leases import Lease, Leases
from eventstore.reading import LOG_FILE
from projections.checkpoints import read_checkpoints
from projections.tenants import TenantList, list_tenants
from runfold.envelope import time_text

LEASES_SHOWN_MAX = 200


class LeaseItem(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's right to drive a run, which ends by itself unless it is renewed."""

    run_id: str
    tenant: str
    worker: str
    host: str
    pid: int
    claim: int
    expires_at: str
    is_expired: bool


class WorkerItem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    host: str
    runs: int


class LogFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes are in bytes, null where the log is no file of this folder; `position` is that of the last event."""

    position: int
    first: int
    size_bytes: int | None
    views_bytes: int | None
    views_lag: int
    views_parked: tuple[str, ...]


class ServerFigures(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    started_at: str
    log: LogFigures
    stream_clients: int
    workers: tuple[WorkerItem, ...]
    leases: tuple[LeaseItem, ...]
    leases_total: int
    tokens_live: int


class TenantsQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Limit] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0


async def get_server(request: web.Request) -> web.Response:
    return json_response(await server_figures(request.app[SERVICE]))


async def server_figures(service: Service) -> ServerFigures:
    """What the page of admins and Prometheus are told alike."""
    leases = await asyncio.to_thread(_leases, service.data)
    workers: dict[tuple[str, str], int] = {}
    for lease in leases:
        workers[lease.worker, lease.host] = workers.get((lease.worker, lease.host), 0) + 1
    return ServerFigures(
        version=runfold.__version__,
        started_at=time_text(service.started_us),
        log=await _log_figures(service),
        stream_clients=service.live.clients,
        workers=tuple(WorkerItem(name=name, host=host, runs=runs) for (name, host), runs in sorted(workers.items())),
        leases=tuple(leases[:LEASES_SHOWN_MAX]),
        leases_total=len(leases),
        tokens_live=len(service.tokens.live()),
    )


async def get_tenants(request: web.Request) -> web.Response:
    query: TenantsQuery = request[QUERY]
    found, freshness = await query_views(
        request.app[SERVICE], query.min_position, list_tenants, limit=query.limit, offset=query.offset
    )
    return view_response(found, freshness)


async def _log_figures(service: Service) -> LogFigures:
    bounds = await service.log.bounds()
    checkpoints, freshness = await service.views.query(read_checkpoints)
    # A position that the views have passed meanwhile is no lag.
    lag = max((max(0, bounds.last - place.position) for place in checkpoints.values()), default=0)
    return LogFigures(
        position=bounds.last,
        first=bounds.first,
        size_bytes=await asyncio.to_thread(_weight, service.data, f"{LOG_FILE}*"),
        views_bytes=await asyncio.to_thread(_weight, service.data, "views.*.db*"),
        views_lag=lag,
        views_parked=tuple(freshness.parked),
    )


def _weight(data: Path, pattern: str) -> int | None:
    """What files weigh together with what is not folded into them yet."""
    files = [path for path in data.glob(pattern) if path.suffix != ".lock"]
    return sum(path.stat().st_size for path in files) if files else None


def _leases(data: Path) -> list[LeaseItem]:
    leases = Leases.open_reader(data)
    if leases is None:
        return []
    try:
        return [_lease_item(lease) for lease in leases.every()]
    finally:
        leases.close()


def _lease_item(lease: Lease) -> LeaseItem:
    return LeaseItem(
        run_id=lease.run_id,
        tenant=lease.tenant,
        worker=lease.owner,
        host=lease.host,
        pid=lease.pid,
        claim=lease.claim,
        expires_at=time_text(lease.expires_wall_us),
        is_expired=lease.expires_wall_us <= time.time_ns() // 1_000,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/admin/server",
        operation="get_server",
        handler=get_server,
        summary="Sizes, workers, leases and listeners",
        needs="root",
        answer=ServerFigures,
    ),
    Route(
        method="GET",
        path="/api/admin/tenants",
        operation="list_tenants",
        handler=get_tenants,
        summary="The tenants with their runs by status and their cost",
        needs="root",
        query=TenantsQuery,
        answer=TenantList,
    ),
)

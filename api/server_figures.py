"""How the server itself does: what its files weigh, how far they are read, who works and who listens."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

import runfold
from api.answers import json_response, view_response
from api.asking import Limit, ViewQuery, query_views
from api.routes import QUERY, Route
from api.service import SERVICE, Service
from eventstore.journal import journal_of
from eventstore.leases import Lease, Leases
from eventstore.log_file import LOG_FILE
from projections.engine.checkpoints import read_checkpoints
from projections.runs import active_runs
from projections.tenants import TenantList, list_tenants
from runfold.envelope import time_text
from runfold.errors import Unavailable
from runfold.state import Run

LEASES_SHOWN_MAX = 200
WORKERS_ASKED_MAX = 50  # Each is a question to the servers of the log.


class LeaseItem(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's right to drive a run, which ends by itself unless it is renewed.

    `pid` and `expires_at` are null where the lease is kept on another machine of a replicated log; it has expired then
    when its worker is not heard of any more, and null says that this cannot be asked now.
    """

    run_id: str
    tenant: str
    worker: str
    host: str
    pid: int | None
    claim: int
    expires_at: str | None
    is_expired: bool | None


class WorkerItem(msgspec.Struct, frozen=True, kw_only=True):
    """`runs` is 0 where it waits for work; `is_alive` is null where it cannot be asked now."""

    name: str
    host: str
    runs: int
    is_alive: bool | None


class LogFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes are in bytes, null where the log is no file of this folder; `position` is that of the last event.

    `journal_trouble` says which processes keep the journal from being taken into the log, and what helps; mostly empty.
    """

    position: int
    first: int
    size_bytes: int | None
    journal_bytes: int
    journal_trouble: str
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
    leases = await _leases(service)
    return ServerFigures(
        version=runfold.__version__,
        started_at=time_text(service.started_us),
        log=await _log_figures(service),
        stream_clients=service.live.clients,
        workers=_workers(leases, await _attending(service)),
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
    journal = await asyncio.to_thread(journal_of, service.data)
    return LogFigures(
        position=bounds.last,
        first=bounds.first,
        size_bytes=await asyncio.to_thread(_weight, service.data, f"{LOG_FILE}*"),
        journal_bytes=journal.size_bytes,
        journal_trouble=f"{journal.sentence}; {journal.remedy}" if journal.held_by else "",
        views_bytes=await asyncio.to_thread(_weight, service.data, "views.*.db*"),
        views_lag=lag,
        views_parked=tuple(freshness.parked),
    )


def _weight(data: Path, pattern: str) -> int | None:
    """What files weigh together with what is not folded into them yet."""
    files = [path for path in data.glob(pattern) if path.suffix != ".lock"]
    return sum(path.stat().st_size for path in files) if files else None


async def _leases(service: Service) -> list[LeaseItem]:
    """Those of this folder, and the claims of other machines that share the log."""
    here = await asyncio.to_thread(_leases_here, service.data)
    presence = service.log.presence
    if presence is None:
        return here
    known = {lease.run_id for lease in here}
    active, _ = await service.views.query(active_runs)
    elsewhere = [run for run in active if run.worker and run.run_id not in known]
    silent: dict[str, bool | None] = {}
    for worker in sorted({run.worker for run in elsewhere})[:WORKERS_ASKED_MAX]:
        try:
            silent[worker] = not await presence.is_alive(worker)
        except Unavailable:
            break  # Its servers are not there: nobody can say anything of any worker.
    return here + [_lease_elsewhere(run, silent.get(run.worker)) for run in elsewhere]


async def _attending(service: Service) -> set[tuple[str, str]]:
    """Name and host of the workers that say that they are there: of this folder, and of a log that machines share."""
    attending = await asyncio.to_thread(_attending_here, service.data)
    presence = service.log.presence
    if presence is not None:
        with suppress(Unavailable):
            # A worker is named by its host and process; reporters of runs are heard of too.
            named = [(name, *name.rpartition(":")) for name in await presence.alive()]
            attending.update((name, host) for name, host, _, pid in named if pid.isdecimal())
    return attending


def _workers(leases: Sequence[LeaseItem], attending: set[tuple[str, str]]) -> tuple[WorkerItem, ...]:
    """Each with what it drives; one lives as long as it says so, or one of its leases does."""
    of: dict[tuple[str, str], list[LeaseItem]] = {worker: [] for worker in attending}
    for lease in leases:
        of.setdefault((lease.worker, lease.host), []).append(lease)
    return tuple(
        WorkerItem(name=name, host=host, runs=len(its), is_alive=(name, host) in attending or _is_alive(its))
        for (name, host), its in sorted(of.items())
    )


def _is_alive(leases: Sequence[LeaseItem]) -> bool | None:
    said = {lease.is_expired for lease in leases}
    return True if False in said else None if None in said else False


def _attending_here(data: Path) -> set[tuple[str, str]]:
    leases = Leases.open_reader(data)
    if leases is None:
        return set()
    try:
        return set(leases.attending())
    finally:
        leases.close()


def _leases_here(data: Path) -> list[LeaseItem]:
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


def _lease_elsewhere(run: Run, is_expired: bool | None) -> LeaseItem:
    return LeaseItem(
        run_id=run.run_id,
        tenant=run.tenant,
        worker=run.worker,
        host=run.host,
        pid=None,
        claim=run.claim,
        expires_at=None,
        is_expired=is_expired,
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

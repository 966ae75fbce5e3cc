"""What can be asked: the list of runs, one run, its events and its history."""

import re
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec.structs import replace

from api.answers import events_response, is_held_by_caller, json_response, ready_response, view_response
from api.asking import Limit, ViewQuery, ask_views, query_views, refuse_behind
from api.cursors import Cursor, check_cursor, parse_cursor
from api.exporting import list_response, wanted_format
from api.guard import SCOPE
from api.routes import QUERY, Route
from api.service import SERVICE, Service, check_kept, last_of, unknown_run
from eventstore.contract import EventLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.projector import Freshness
from projections.exporting import Format
from projections.history import Transition, run_history
from projections.past import At, not_there_yet, parse_at, state_at
from projections.run_list import RunFilter, RunList, list_runs, list_shown
from projections.runs import get_run
from runfold.envelope import Recorded, envelope_json
from runfold.envelope import _Envelope as Envelope
from runfold.errors import Damaged, NotFound, Trimmed
from runfold.events import EventClass, event_class
from runfold.items import item_json
from runfold.snapshot import Snapshot, snapshot, without_trace
from runfold.state import Run, Status

_VERSION = re.compile(r"v([0-9]{1,15})", re.ASCII)


class RunQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`at`: the run as it was at a position, at its own event `v7`, or at a time (RFC 3339) by the clock of the log."""

    at: str | None = None


class RunsQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: tuple[Status, ...] = ()
    workflow: str | None = None
    q: str | None = None
    label: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    sort: Literal["created_at", "status", "duration", "cost"] = "created_at"
    order: Literal["asc", "desc"] = "desc"
    limit: Annotated[int, Limit] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    cursor: str | None = None
    format: Format | None = None


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`after`: a cursor, a position, or the number of an event of the run such as `v7`."""

    after: str = "0"
    format: Literal["events", "items"] = "events"
    limit: Annotated[int, Limit] = 200
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[Envelope, ...]
    total: int | None
    next_cursor: str | None


class History(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[Transition, ...]
    total: int
    next_cursor: str | None = None


async def get_runs(request: web.Request) -> web.StreamResponse:
    query: RunsQuery = request[QUERY]
    return await runs_response(request, query, tenant=request[SCOPE].tenant)


async def runs_response(request: web.Request, query: RunsQuery, *, tenant: str | None) -> web.StreamResponse:
    wanted = run_filter(query, tenant=tenant)
    if wanted_format(request, query) is None:
        service = request.app[SERVICE]
        if not query.min_position:
            content, freshness = await service.views.answer(list_shown, wanted)
            if not freshness.stale:
                return ready_response(content, freshness)
        found, freshness = await query_views(service, query.min_position, list_shown, wanted)
        return view_response(found, freshness)

    def page(connection: sqlite3.Connection, wanted: RunFilter) -> RunList:
        found = list_runs(connection, wanted)
        return replace(found, items=[shown_to(request, item) for item in found.items])

    return await list_response(request, page, wanted, query, kind=Snapshot, name="runs")


def run_filter(query: RunsQuery, *, tenant: str | None) -> RunFilter:
    return RunFilter(
        tenant=tenant,
        status=query.status,
        workflow=query.workflow,
        q=query.q,
        label=query.label,
        created_after=query.created_after,
        created_before=query.created_before,
        sort=query.sort,
        order=query.order,
        limit=query.limit,
        offset=query.offset,
        cursor=query.cursor,
    )


async def get_one(request: web.Request) -> web.Response:
    query: RunQuery = request[QUERY]
    if query.at is not None:
        return await _get_past(request, query.at)
    run_id = request.match_info["run_id"]
    tenant = request[SCOPE].tenant
    service = request.app[SERVICE]
    found, freshness = await ask_views(service, query.min_position, get_run, run_id, tenant=tenant)
    if freshness.behind:
        found, freshness = await _as_logged(service, run_id, tenant, found, freshness, query.min_position)
    if found is None:
        refuse_behind(freshness)
        raise unknown_run(run_id)
    # A retry of the run is told with it, though the run itself did not change.
    retries = len(found.lineage.retries)
    shown = shown_to(request, found)
    seen_by = "" if shown is found else "-plain"
    tag = f'"{found.version}-{retries}{seen_by}"' if retries else f'"{found.version}{seen_by}"'
    if is_held_by_caller(request, tag) and not freshness.stale:
        return web.Response(status=304, headers={"ETag": tag, "Runfold-Position": str(freshness.position)})
    return view_response(shown, freshness, headers={"ETag": tag})


async def _as_logged(
    service: Service, run_id: str, tenant: str, found: Snapshot | None, freshness: Freshness, min_position: int
) -> tuple[Snapshot | None, Freshness]:
    """One run is folded from the log at once, where the views will not be there for a while."""
    try:
        head = (await service.log.bounds()).last
        run, position = await state_at(service.log, run_id, At(), tenant=tenant)
    except (NotFound, Damaged, Trimmed):
        return found, freshness
    now = snapshot(run, position=position)
    if found is not None:
        now = replace(now, lineage=found.lineage)
    return now, Freshness(position=head, stale=head < min_position)


def shown_to(request: web.Request, found: Snapshot) -> Snapshot:
    """A snapshot as the caller may see it: where in a program it failed is for operators."""
    return found if request[SCOPE].may("operator") else without_trace(found)


async def _get_past(request: web.Request, text: str) -> web.Response:
    run, position = await past_run(request, text)
    shown = shown_to(request, snapshot(run, position=position))
    return json_response(shown, headers={"ETag": f'"{run.version}"'})


async def past_run(request: web.Request, text: str) -> tuple[Run, int]:
    """The run of the path as it was at a moment, and where that was. Raises NotFound, BadRequest, Gone."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    await last_of(service, run_id, request[SCOPE].tenant)
    at = parse_at(text)
    if at.position is not None:
        await check_cursor(service.log, Cursor(at.position), run_id=run_id)
    return await state_at(service.log, run_id, at)


async def moment_of(request: web.Request, text: str | None) -> int | None:
    """The position in the log that `at` means for the run of the path; None is now. Raises NotFound, BadRequest, Gone.

    Who gives a position or a number of an event has it looked up; only a time asks for the run's fold.
    """
    if text is None:
        return None
    service, run_id, at = request.app[SERVICE], request.match_info["run_id"], parse_at(text)
    if at.position is None and at.version is None:
        return (await past_run(request, text))[1]
    last = await last_of(service, run_id, request[SCOPE].tenant)
    if at.position is not None:
        return (await check_cursor(service.log, Cursor(at.position), run_id=run_id)).position
    if not at.version:
        raise not_there_yet(run_id)
    return last.position if at.version >= last.version else await service.log.position_of(run_id, at.version)


async def get_events(request: web.Request) -> web.Response:
    query: EventsQuery = request[QUERY]
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    last = await last_of(service, run_id, request[SCOPE].tenant)
    after = await _place(service.log, run_id, query.after, last)
    found: list[Recorded] = []
    async for page in service.log.read(after=after.position, stream=run_id):
        found += [event for event in page.events if is_wanted(event, query.type, query.classes)]
        if len(found) > query.limit:
            break
    items = found[: query.limit]
    is_filtered = bool(query.type or query.classes)
    return events_response(
        items,
        total=None if is_filtered else last.version,
        next_cursor=items[-1].cursor if len(found) > len(items) else None,
        as_json=item_json if query.format == "items" else envelope_json,
    )


async def _place(log: EventLog, run_id: str, text: str, last: Recorded) -> Cursor:
    """Where a reading begins: after a cursor, or after the run's own event of a number. Raises BadRequest, Gone."""
    number = _VERSION.fullmatch(text)
    if number is None:
        return await check_cursor(log, parse_cursor(text), run_id=run_id)
    version = min(int(number[1]), last.version)
    return Cursor(last.position if version == last.version else await log.position_of(run_id, version) or 0)


async def get_history(request: web.Request) -> web.Response:
    service, run_id, tenant = request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant
    await check_kept(service, run_id, tenant)
    query: RunQuery = request[QUERY]
    at = await moment_of(request, query.at)
    found, freshness = await query_views(service, query.min_position, run_history, run_id, tenant=tenant, at=at)
    return view_response(History(items=tuple(found), total=len(found)), freshness)


def is_wanted(event: Recorded, types: tuple[str, ...], classes: tuple[EventClass, ...]) -> bool:
    return (not types or event.type in types) and (not classes or event_class(event.type) in classes)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs",
        operation="list_runs",
        handler=get_runs,
        summary="The runs, newest first",
        needs="viewer",
        query=RunsQuery,
        answer=RunList,
        is_taken_away=True,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}",
        operation="get_run",
        handler=get_one,
        summary="The run as it is now, or as it was",
        needs="viewer",
        query=RunQuery,
        answer=Snapshot,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/status",
        operation="get_run_status",
        handler=get_one,
        summary="The run as it is now, or as it was",
        needs="viewer",
        query=RunQuery,
        answer=Snapshot,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/events",
        operation="list_events",
        handler=get_events,
        summary="Recorded events in order of position",
        needs="viewer",
        query=EventsQuery,
        answer=EventList,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/history",
        operation="get_history",
        handler=get_history,
        summary="The run's status transitions",
        needs="viewer",
        query=RunQuery,
        answer=History,
    ),
)

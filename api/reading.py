"""What can be asked: the list of runs, one run, its events and its history."""

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from api.answers import events_response, json_response, tagged_response
from api.cursors import check_cursor, parse_cursor
from api.guard import SCOPE
from api.routes import QUERY
from api.service import SERVICE, known_run, unknown_run
from projections.history import run_history
from projections.runs import RunFilter, get_run, list_runs
from projections.views import Freshness
from runfold.envelope import Recorded, envelope_json
from runfold.events import EventClass, event_class
from runfold.items import item_json
from runfold.state import Status

Limit = msgspec.Meta(ge=1, le=200)


class RunsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: str = "0"
    format: Literal["events", "items"] = "events"
    limit: Annotated[int, Limit] = 200
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")


async def get_runs(request: web.Request) -> web.Response:
    query: RunsQuery = request[QUERY]
    wanted = RunFilter(
        tenant=request[SCOPE].tenant,
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
    found, freshness = await request.app[SERVICE].views.query(list_runs, wanted)
    return json_response(found, headers=_position(freshness))


async def get_one(request: web.Request) -> web.Response:
    run_id = request.match_info["run_id"]
    views = request.app[SERVICE].views
    found, freshness = await views.query(get_run, run_id, tenant=request[SCOPE].tenant)
    if found is None:
        raise unknown_run(run_id)
    return tagged_response(request, found, version=found.version, headers=_position(freshness))


async def get_events(request: web.Request) -> web.Response:
    query: EventsQuery = request[QUERY]
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    run = await known_run(service, run_id, request[SCOPE].tenant)
    after = parse_cursor(query.after)
    await check_cursor(service.log, after, run_id=run_id)
    found: list[Recorded] = []
    async for page in service.log.read(after=after.position, stream=run_id):
        found += [event for event in page.events if is_wanted(event, query.type, query.classes)]
        if len(found) > query.limit:
            break
    items = found[: query.limit]
    is_filtered = bool(query.type or query.classes)
    return events_response(
        items,
        total=None if is_filtered else run.version,
        next_cursor=items[-1].cursor if len(found) > len(items) else None,
        as_json=item_json if query.format == "items" else envelope_json,
    )


async def get_history(request: web.Request) -> web.Response:
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    await known_run(service, run_id, request[SCOPE].tenant)
    found, freshness = await service.views.query(run_history, run_id)
    answer: dict[str, Any] = {"items": found, "total": len(found), "next_cursor": None}
    return json_response(answer, headers=_position(freshness))


def is_wanted(event: Recorded, types: tuple[str, ...], classes: tuple[EventClass, ...]) -> bool:
    return (not types or event.type in types) and (not classes or event_class(event.type) in classes)


def _position(freshness: Freshness) -> dict[str, str]:
    headers = {"Runfold-Position": str(freshness.position)}
    if freshness.stale:
        headers["Runfold-Stale"] = "true"
    return headers

"""What is asked about the inside of one run: its steps, spans and artifacts."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web

from api.answers import json_response, view_response
from api.asking import Limit, query_views
from api.guard import SCOPE
from api.reading import RunQuery, moment_of, past_run
from api.routes import QUERY, Route
from api.service import SERVICE, Service, check_kept, last_of
from projections.artifacts import ArtifactList, list_artifacts
from projections.spans import PAGE_SPANS_MAX, Kind, Overview, SpanList, overview, timeline
from projections.steps import StepDetail, StepList, get_step, list_steps, step_of, steps_of
from runfold.envelope import A_MOMENT, moment_us
from runfold.errors import BadRequest, NotFound
from runfold.step_states import StepStatus

After = msgspec.Meta(ge=0, le=2**53)


class StepsQuery(RunQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: tuple[StepStatus, ...] = ()
    limit: Annotated[int, Limit] = 200
    offset: Annotated[int, After] = 0
    cursor: str | None = None


class ArtifactsQuery(RunQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Limit] = 200
    cursor: str | None = None


class TimelineQuery(RunQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`since`, `until`: what touches the time between; `changed_after`: what began or ended after a position."""

    kind: tuple[Kind, ...] = ()
    since: str | None = None
    until: str | None = None
    changed_after: Annotated[int, After] = 0
    after: Annotated[int, After] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_SPANS_MAX)] = PAGE_SPANS_MAX


async def get_steps(request: web.Request) -> web.Response:
    query: StepsQuery = request[QUERY]
    service, run_id, tenant = await _run(request, check_kept)
    offset = query.offset if query.cursor is None else number_cursor(query.cursor)
    if query.at is not None:
        run, _ = await past_run(request, query.at)
        return json_response(steps_of(run, status=query.status, limit=query.limit, offset=offset))
    found, freshness = await query_views(
        service, query.min_position, list_steps, run_id,
        tenant=tenant, status=query.status, limit=query.limit, offset=offset,
    )  # fmt: skip
    return view_response(found, freshness)


async def get_one_step(request: web.Request) -> web.Response:
    query: RunQuery = request[QUERY]
    service, run_id, tenant = await _run(request, check_kept)
    step = request.match_info["step"]
    if query.at is not None:
        run, _ = await past_run(request, query.at)
        return json_response(_found(step_of(run, step), run_id, step))
    found, freshness = await query_views(service, query.min_position, get_step, run_id, step, tenant=tenant)
    return view_response(_found(found, run_id, step), freshness)


async def get_artifacts(request: web.Request) -> web.Response:
    query: ArtifactsQuery = request[QUERY]
    service, run_id, tenant = await _run(request)
    found, freshness = await query_views(
        service, query.min_position, list_artifacts, run_id,
        tenant=tenant, step=request.match_info.get("step"), limit=query.limit,
        after=0 if query.cursor is None else number_cursor(query.cursor), at=await moment_of(request, query.at),
    )  # fmt: skip
    return view_response(found, freshness)


async def get_timeline(request: web.Request) -> web.Response:
    query: TimelineQuery = request[QUERY]
    service, run_id, tenant = await _run(request)
    found, freshness = await query_views(
        service, query.min_position, timeline, run_id,
        tenant=tenant, kinds=query.kind, after=query.after, limit=query.limit, at=await moment_of(request, query.at),
        since_us=_time_us("since", query.since), until_us=_time_us("until", query.until),
        changed_after=query.changed_after,
    )  # fmt: skip
    return view_response(found, freshness)


async def get_overview(request: web.Request) -> web.Response:
    query: RunQuery = request[QUERY]
    service, run_id, tenant = await _run(request)
    at = await moment_of(request, query.at)
    found, freshness = await query_views(service, query.min_position, overview, run_id, tenant=tenant, at=at)
    return view_response(found, freshness)


def _time_us(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else moment_us(text)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"`{name}` is {text[:40]!a}" if text else f"`{name}` is empty",
            hint=f"give {A_MOMENT}",
        ) from None


def _found(step: StepDetail | None, run_id: str, name: str) -> StepDetail:
    if step is None:
        hint = f"`GET /api/runs/{run_id}/steps` lists its steps"
        raise NotFound(f"run `{run_id}` has no step `{name[:80]}`", hint=hint, run_id=run_id)
    return step


def number_cursor(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise BadRequest(f"`cursor` is {text[:40]!a}", hint="it is the `next_cursor` of the page before")
    return int(text)


async def _run(
    request: web.Request, check: Callable[[Service, str, str], Awaitable[object]] = last_of
) -> tuple[Service, str, str]:
    service, run_id, tenant = request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant
    await check(service, run_id, tenant)
    return service, run_id, tenant


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs/{run_id}/steps",
        operation="list_steps",
        handler=get_steps,
        summary="The run's steps with their tries",
        needs="viewer",
        query=StepsQuery,
        answer=StepList,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/steps/{step}",
        operation="get_step",
        handler=get_one_step,
        summary="One step with what went in and came out",
        needs="viewer",
        query=RunQuery,
        answer=StepDetail,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/steps/{step}/artifacts",
        operation="list_step_artifacts",
        handler=get_artifacts,
        summary="What a step left behind",
        needs="viewer",
        query=ArtifactsQuery,
        answer=ArtifactList,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/artifacts",
        operation="list_artifacts",
        handler=get_artifacts,
        summary="What the run left behind",
        needs="viewer",
        query=ArtifactsQuery,
        answer=ArtifactList,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/timeline",
        operation="get_timeline",
        handler=get_timeline,
        summary="Turns, steps, tools, units, approvals, pauses and limits as spans",
        needs="viewer",
        query=TimelineQuery,
        answer=SpanList,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/timeline/overview",
        operation="get_timeline_overview",
        handler=get_overview,
        summary="How busy the run was from its start to its end, by kind",
        needs="viewer",
        query=RunQuery,
        answer=Overview,
    ),
)

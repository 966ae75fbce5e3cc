"""What is asked about the inside of one run: its steps, spans and artifacts."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web

from api.answers import json_response, view_response
from api.guard import SCOPE
from api.reading import Limit, ViewQuery, past_run, query_views
from api.routes import QUERY, Route
from api.service import SERVICE, Service, known_run
from projections.artifacts import ArtifactList, list_artifacts
from projections.steps import StepDetail, StepList, get_step, list_steps, step_of, steps_of
from projections.timeline import PAGE_SPANS_MAX, SpanList, timeline
from runfold.errors import BadRequest, NotFound
from runfold.step_states import StepStatus

After = msgspec.Meta(ge=0, le=2**53)


class StepQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`at`: as it was at that moment of its run."""

    at: str | None = None


class StepsQuery(StepQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: tuple[StepStatus, ...] = ()
    limit: Annotated[int, Limit] = 200
    offset: Annotated[int, After] = 0
    cursor: str | None = None


class ArtifactsQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Limit] = 200
    cursor: str | None = None


class TimelineQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: tuple[Literal["turn", "step", "tool", "command", "tests", "unit", "approval", "pause"], ...] = ()
    after: Annotated[int, After] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_SPANS_MAX)] = PAGE_SPANS_MAX


async def get_steps(request: web.Request) -> web.Response:
    query: StepsQuery = request[QUERY]
    service, run_id, tenant = await _run(request)
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
    query: StepQuery = request[QUERY]
    service, run_id, tenant = await _run(request)
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
        after=0 if query.cursor is None else number_cursor(query.cursor),
    )  # fmt: skip
    return view_response(found, freshness)


async def get_timeline(request: web.Request) -> web.Response:
    query: TimelineQuery = request[QUERY]
    service, run_id, tenant = await _run(request)
    found, freshness = await query_views(
        service, query.min_position, timeline, run_id,
        tenant=tenant, kinds=query.kind, after=query.after, limit=query.limit,
    )  # fmt: skip
    return view_response(found, freshness)


def _found(step: StepDetail | None, run_id: str, name: str) -> StepDetail:
    if step is None:
        hint = f"`GET /api/runs/{run_id}/steps` lists its steps"
        raise NotFound(f"run `{run_id}` has no step `{name[:80]}`", hint=hint, run_id=run_id)
    return step


def number_cursor(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise BadRequest(f"`cursor` is {text[:40]!a}", hint="it is the `next_cursor` of the page before")
    return int(text)


async def _run(request: web.Request) -> tuple[Service, str, str]:
    service, run_id, tenant = request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant
    await known_run(service, run_id, tenant)
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
        query=StepQuery,
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
        summary="Turns, steps, tools, units, approvals and pauses as spans",
        needs="viewer",
        query=TimelineQuery,
        answer=SpanList,
    ),
)

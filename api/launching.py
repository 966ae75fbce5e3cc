"""What may be started over HTTP: registered workflows, with typed parameters, and nothing else; 202 at once."""

import uuid
from typing import Annotated

import msgspec
from aiohttp import web

from api.acting import command_id_of, snapshot_response
from api.answers import json_response, view_response
from api.asking import ViewQuery, query_views
from api.guard import SCOPE
from api.routes import BODY, QUERY, Route
from api.service import SERVICE, check_order
from projections.estimates import estimate
from runfold.commands import OpenReported, Queue
from runfold.envelope import run_id_of
from runfold.estimates import Estimate, cost_estimated
from runfold.events import Json
from runfold.reporting import Text
from runfold.snapshot import Snapshot
from runfold.workflows import TURNS_MAX, Asked, CompletionRules, Parameter, find_workflow, order_of

Prompt = Annotated[str, msgspec.Meta(max_length=256 * 1024)]
Turns = Annotated[int, msgspec.Meta(ge=1, le=TURNS_MAX)]


class LaunchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workflow: Text
    payload: Json = None
    title: Text = ""
    labels: dict[str, str] = {}
    limits: dict[str, Json] = {}


class ContinuousBody(LaunchBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: Prompt | None = None
    model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,199}$")] | None = None
    max_turns: Turns | None = None
    completion: CompletionRules | None = None


class WorkflowItem(msgspec.Struct, frozen=True, kw_only=True):
    """A registered workflow as it may be asked for."""

    name: str
    description: str
    parameters: dict[str, Parameter]
    format: str | None
    model: str | None
    max_turns: int
    completion: CompletionRules
    limits: dict[str, Json]


class WorkflowList(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[WorkflowItem, ...]
    total: int
    next_cursor: str | None = None


async def post_run(request: web.Request) -> web.Response:
    """Queue one run of a workflow; a worker takes it, and the answer never waits for that."""
    body: LaunchBody = request[BODY]
    asked = Asked(**{name: getattr(body, name) for name in body.__struct_fields__ if name != "workflow"})
    service, scope = request.app[SERVICE], request[SCOPE]
    registry = service.registry()
    workflow = find_workflow(registry.workflows, body.workflow)
    # It is a guess from many runs: the one that ended this second is not worth waiting for the views.
    expected = await service.views.query_lately(estimate, workflow.name, tenant=scope.tenant, figure=workflow.estimate)
    order = order_of(workflow, asked, folder=registry.folder, estimate=expected)
    command_id = command_id_of(request)
    run_id = run_id_of(uuid.UUID(command_id))
    await check_order(service, run_id, order, scope.tenant)
    # Where nobody has to start anything, whoever does the steps drives the run.
    kind = OpenReported if order.driver == "reported" else Queue
    command = kind(queued=order, estimated=cost_estimated(expected))
    executed = await service.ledger.execute(
        run_id, command, command_id=command_id, actor=scope.actor, tenant=scope.tenant
    )
    return await snapshot_response(request, executed, status=202)


async def get_estimate(request: web.Request) -> web.Response:
    """From the past runs of the caller's own tenant, else from the workflow's own figure."""
    service, tenant = request.app[SERVICE], request[SCOPE].tenant
    workflow = find_workflow(service.registry().workflows, request.match_info["name"])
    query: ViewQuery = request[QUERY]
    found, freshness = await query_views(
        service, query.min_position, estimate, workflow.name, tenant=tenant, figure=workflow.estimate
    )
    return view_response(found, freshness)


async def get_workflows(request: web.Request) -> web.Response:
    workflows = request.app[SERVICE].registry().workflows
    items = tuple(
        WorkflowItem(**{name: getattr(workflow, name) for name in WorkflowItem.__struct_fields__})
        for _, workflow in sorted(workflows.items())
    )
    return json_response(WorkflowList(items=items, total=len(items)))


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/runs",
        operation="start_run",
        handler=post_run,
        summary="Queue a run of a registered workflow",
        needs="operator",
        body=LaunchBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="POST",
        path="/api/runs/continuous",
        operation="start_continuous_run",
        handler=post_run,
        summary="Queue an agent loop of a registered workflow",
        needs="operator",
        body=ContinuousBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="GET",
        path="/api/workflows",
        operation="list_workflows",
        handler=get_workflows,
        summary="The registered workflows with their parameters",
        needs="viewer",
        answer=WorkflowList,
    ),
    Route(
        method="GET",
        path="/api/workflows/{name}/estimate",
        operation="estimate_workflow",
        handler=get_estimate,
        summary="What a run of the workflow will cost and take, from its past runs",
        needs="viewer",
        query=ViewQuery,
        answer=Estimate,
    ),
)

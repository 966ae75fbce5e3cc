"""A retry over HTTP: a new run that reuses what is still valid, or only the plan of one."""

import uuid
from contextlib import suppress

import msgspec
from aiohttp import web

from api.acting import command_id_of
from api.answers import json_response
from api.guard import SCOPE
from api.routes import BODY, Route
from api.service import SERVICE, Service, check_by_hand, check_order, known_run
from api.sessions import Scope
from projections.estimates import estimate
from projections.origin import origin_of
from runfold.commands import OpenReported, Queue
from runfold.envelope import run_id_of
from runfold.errors import Forbidden, InvalidSetting, NotAllowed
from runfold.events import CostEstimated, Json, RunQueued
from runfold.plan import RetryPlan, plan_retry
from runfold.reporting import Text
from runfold.retrying import RetryAnswer, answer_of, estimate_of_retry, retry_order, reused_steps
from runfold.state import Run


class RetryBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`payload` in place of the old one; `plan`: say what would be reused and rerun, and change nothing."""

    from_step: Text | None = None
    payload: Json = None
    plan: bool = False


async def post_retry(request: web.Request) -> web.Response:
    body: RetryBody = request[BODY]
    service, scope = request.app[SERVICE], request[SCOPE]
    run = await known_run(service, request.match_info["run_id"], scope.tenant)
    if body.plan:
        plan = plan_retry(run, body.from_step)
        by_hand = await _by_hand(service, scope, run)
        return json_response(answer_of(plan, estimated=await _estimated(service, run, plan), by_hand=by_hand))
    answer = await retry(service, scope, run, body, command_id_of(request))
    return json_response(answer, status=202, headers={"Location": f"/api/runs/{answer.new_run_id}"})


async def retry(service: Service, scope: Scope, run: Run, body: RetryBody, command_id: str) -> RetryAnswer:
    """Open the new run, whose id follows from the command's. Raises what speaks against it."""
    plan = plan_retry(run, body.from_step)
    origin = await origin_of(service.log, run.run_id)
    _check(service, scope, run, body, origin.order)
    order = retry_order(origin.order, run, plan, payload=body.payload)
    reused = reused_steps(run, plan, origin.completed)
    estimated = await _estimated(service, run, plan)
    kind = OpenReported if run.driver == "reported" else Queue
    command = kind(queued=order, reused=reused, estimated=estimated)
    run_id = run_id_of(uuid.UUID(command_id))
    await check_order(service, run_id, order, run.tenant)
    await service.ledger.execute(
        run_id, command, command_id=command_id, actor=scope.actor, tenant=scope.tenant, cause=origin.ended_by
    )
    return answer_of(plan, run_id, estimated=estimated)


async def _estimated(service: Service, run: Run, plan: RetryPlan) -> CostEstimated | None:
    whole = None
    if run.workflow is not None:
        workflow = None
        # A retry is of the old order: a slip in today's file takes only the workflow's own figure away.
        with suppress(InvalidSetting):
            workflow = service.registry().workflows.get(run.workflow)
        figure = None if workflow is None else workflow.estimate
        whole, _ = await service.views.query(estimate, run.workflow, tenant=run.tenant, figure=figure)
    return estimate_of_retry(run, plan, whole)


async def _by_hand(service: Service, scope: Scope, run: Run) -> str | None:
    """What to type instead; None where a retry is taken here."""
    try:
        check_by_hand(service, scope, run, (await origin_of(service.log, run.run_id)).order)
    except Forbidden as error:
        return error.hint
    return None


async def check_retry(service: Service, scope: Scope, run: Run) -> None:
    """Raises what speaks against a retry of the run as a whole."""
    origin = await origin_of(service.log, run.run_id)
    _check(service, scope, run, RetryBody(), origin.order)
    await check_order(service, run.run_id, retry_order(origin.order, run, plan_retry(run, None)), run.tenant)


def _check(service: Service, scope: Scope, run: Run, body: RetryBody, order: RunQueued) -> None:
    """Over HTTP registered workflows are started, and a typed command only where it was typed."""
    check_by_hand(service, scope, run, order)
    if run.is_driven and body.payload is not None:
        raise NotAllowed(
            f"the payload of run `{run.run_id}` stands in its command already",
            hint="start a new run of the workflow with that payload",
            run_id=run.run_id,
        )


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/runs/{run_id}/retry",
        operation="retry_run",
        handler=post_retry,
        summary="Try the run again, reusing what is still valid, or plan that",
        needs="operator",
        body=RetryBody,
        answer=RetryAnswer,
        status=202,
    ),
)

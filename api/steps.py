"""Steps driven by hand or by a program over HTTP: each wish with everything that it changed."""

import msgspec
from aiohttp import web

from api.acting import command_id_of, run_after
from api.answers import json_response
from api.guard import SCOPE
from api.routes import BODY, Route
from api.service import SERVICE, known_run
from runfold.commands import Command, StartStep
from runfold.step_wishes import StepAnswer, StepsWish, StepWish, step_answer, step_command, steps_command


async def post_step(request: web.Request) -> web.Response:
    wish: StepWish = request[BODY]
    return await _act(request, step_command(request.match_info["step"], wish))


async def post_steps(request: web.Request) -> web.Response:
    wish: StepsWish = request[BODY]
    return await _act(request, steps_command(wish))


async def _act(request: web.Request, command: Command) -> web.Response:
    service, scope, run_id = request.app[SERVICE], request[SCOPE], request.match_info["run_id"]
    run = await known_run(service, run_id, scope.tenant)
    if isinstance(command, StartStep):
        command = msgspec.structs.replace(command, budgets=await service.left(run))
    executed = await service.ledger.execute(
        run_id, command, command_id=command_id_of(request), actor=scope.actor, tenant=scope.tenant
    )
    run, position = await run_after(service, executed)
    return json_response(step_answer(run, [event.event() for event in executed.events], position=position))


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/runs/{run_id}/steps",
        operation="change_steps",
        handler=post_steps,
        summary="Reset every step",
        needs="operator",
        body=StepsWish,
        answer=StepAnswer,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/steps/{step}",
        operation="change_step",
        handler=post_step,
        summary="Start, complete, fail, skip, rerun or reset a step, with what follows for others",
        needs="operator",
        body=StepWish,
        answer=StepAnswer,
    ),
)

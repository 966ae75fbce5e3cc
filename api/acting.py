"""What can be wished of runs over HTTP: open a reported one, report, keep alive, control. It only translates."""

import uuid
from typing import Any

import msgspec
from aiohttp import web

from api.answers import json_response
from api.guard import SCOPE
from api.routes import BODY, Route
from api.service import SERVICE, Service, known_run, next_driver, unknown_run
from api.whole import whole_json
from eventstore.ledger import Executed
from projections.past import At, state_at
from projections.spending import keep_budgets, may_start
from runfold import commands
from runfold.envelope import run_id_of
from runfold.errors import AlreadyFinal, BadRequest, NotFound
from runfold.ordered_ids import ordered_id
from runfold.reporting import (
    STATUS_HEADER,
    AskBody,
    ControlBody,
    EventsAnswer,
    EventsBody,
    ExternalBody,
    HeartbeatAnswer,
    Text,
    ask_command,
    ats_us_of,
    control_command,
    ids_of,
    keyed_command_id,
    observe_command,
    open_command,
)
from runfold.snapshot import Snapshot, snapshot
from runfold.state import Run

KEY_LENGTH_MAX = 255


class CancelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Text = ""


async def post_external(request: web.Request) -> web.Response:
    body: ExternalBody = request[BODY]
    command_id = command_id_of(request)
    run_id = run_id_of(uuid.UUID(command_id))
    executed = await _execute(request, run_id, open_command(body), command_id)
    return await snapshot_response(request, executed, status=201)


async def post_events(request: web.Request) -> web.StreamResponse:
    body: EventsBody = request[BODY]
    service, scope, run_id = request.app[SERVICE], request[SCOPE], request.match_info["run_id"]
    command = observe_command(body)
    if may_start(command):
        await keep_budgets(service.ledger, service.left, await known_run(service, run_id, scope.tenant), command)
    try:
        executed = await service.ledger.execute(
            run_id,
            command,
            command_id=key_of(request),
            actor=scope.actor,
            tenant=scope.tenant,
            ids=ids_of(body),
            ats_us=ats_us_of(body),
        )
    except NotFound:
        # The ledger asks the log only where it does not hold the run, which to ask first would cost every report.
        raise unknown_run(run_id) from None
    first, last, version = executed.ends
    answer = EventsAnswer(first=first, last=last, version=version, duplicate=executed.duplicate)
    return whole_json(request, answer, name=STATUS_HEADER, said=executed.run.status or "")


async def post_heartbeat(request: web.Request) -> web.Response:
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    run = await known_run(service, run_id, request[SCOPE].tenant)
    if run.is_final:
        raise AlreadyFinal(f"run `{run_id}` is already {run.status}", hint="stop reporting it", run_id=run_id)
    if service.renew is not None:
        await service.renew(run)
    return json_response(
        HeartbeatAnswer(
            run_id=run_id, status=run.status or "queued", version=run.version, lease_seconds=run.lease_seconds
        )
    )


async def post_control(request: web.Request) -> web.Response:
    body: ControlBody = request[BODY]
    return await _control(request, body)


async def post_approval(request: web.Request) -> web.Response:
    body: AskBody = request[BODY]
    run_id = request.match_info["run_id"]
    run = await known_run(request.app[SERVICE], run_id, request[SCOPE].tenant)
    if run.is_driven:
        raise BadRequest(
            f"run `{run_id}` is driven here; its worker asks", hint="a reporter asks about its own run", run_id=run_id
        )
    executed = await _execute(request, run_id, ask_command(body), command_id_of(request))
    return await snapshot_response(request, executed, status=201)


async def delete_run(request: web.Request) -> web.Response:
    body: CancelBody = request[BODY]
    return await _control(request, ControlBody(action="cancel", reason=body.reason))


def command_id_of(request: web.Request) -> str:
    """The same key of the same tenant on the same route is the same command; without a key every request is new."""
    return key_of(request) or ordered_id()


def key_of(request: web.Request) -> str | None:
    """The id of a command that may come again; None where no key says so, which spares the ledger a lookup."""
    return None if "Idempotency-Key" not in request.headers else key_for(request, request.path)


def key_for(request: web.Request, path: str) -> str | None:
    """The same for one of several commands of a request, which `path` tells apart."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise BadRequest("the Idempotency-Key is empty or too long", hint=f"1 to {KEY_LENGTH_MAX} characters")
    return keyed_command_id(request[SCOPE].tenant, request.method, path, key)


async def _control(request: web.Request, body: ControlBody) -> web.Response:
    run_id = request.match_info["run_id"]
    run = await known_run(request.app[SERVICE], run_id, request[SCOPE].tenant)
    if body.action not in ("pause", "resume", "cancel") and run.is_driven:
        raise BadRequest(
            f"`{body.action}` is said by whoever drives the run; `{run_id}` is driven here",
            hint="pause, resume and cancel are for every run",
            run_id=run_id,
        )
    command = control_command(body)
    if isinstance(command, commands.Resume):
        driver = await next_driver(request.app[SERVICE], request[SCOPE], run)
        command = msgspec.structs.replace(command, driver=driver)
    executed = await _execute(request, run_id, command, key_of(request))
    return await snapshot_response(request, executed, status=202)


async def _execute(request: web.Request, run_id: str, command: commands.Command, command_id: str | None) -> Executed:
    scope = request[SCOPE]
    return await request.app[SERVICE].ledger.execute(
        run_id, command, command_id=command_id, actor=scope.actor, tenant=scope.tenant
    )


async def run_after(service: Service, executed: Executed) -> tuple[Run, int]:
    """The run right after the command: sent again, the command gets that answer again, wherever the run is now."""
    position = max((event.position for event in executed.events), default=None)
    if executed.duplicate or position is None:
        return await state_at(service.log, executed.run.run_id, At(position=position))
    return executed.run, position


async def snapshot_response(request: web.Request, executed: Executed, *, status: int) -> web.Response:
    run, position = await run_after(request.app[SERVICE], executed)
    answer: Any = snapshot(run, position=position)
    headers = {"Location": f"/api/runs/{run.run_id}", "ETag": f'"{run.version}"'}
    return json_response(answer, status=status, headers=headers)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/runs/external",
        operation="open_reported_run",
        handler=post_external,
        summary="Open a run that the caller drives",
        needs="operator",
        body=ExternalBody,
        answer=Snapshot,
        status=201,
    ),
    Route(
        method="DELETE",
        path="/api/runs/{run_id}",
        operation="cancel_run",
        handler=delete_run,
        summary="Cancel the run",
        needs="operator",
        body=CancelBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/events",
        operation="report_events",
        handler=post_events,
        summary="Report what happened, all or nothing",
        needs="operator",
        body=EventsBody,
        answer=EventsAnswer,
        frequent=True,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/heartbeat",
        operation="heartbeat",
        handler=post_heartbeat,
        summary="Say that the reporter is still there",
        needs="operator",
        answer=HeartbeatAnswer,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/control",
        operation="control_run",
        handler=post_control,
        summary="Pause, resume, cancel; of reported runs also their end",
        needs="operator",
        body=ControlBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/approvals",
        operation="ask_for_approval",
        handler=post_approval,
        summary="Ask a person; the run is paused until the answer",
        needs="operator",
        body=AskBody,
        answer=Snapshot,
        status=201,
    ),
)

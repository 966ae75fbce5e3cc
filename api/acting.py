"""What can be wished of runs over HTTP: open a reported one, report, keep alive, control. It only translates."""

import uuid
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from api.answers import json_response
from api.guard import SCOPE
from api.routes import BODY
from api.service import SERVICE, known_run
from eventstore.ledger import Executed
from projections.past import At, state_at
from runfold import commands
from runfold.envelope import run_id_of, time_us
from runfold.errors import AlreadyFinal, BadRequest, InvalidEvent
from runfold.events import (
    EVENT_TYPES,
    Count,
    Event,
    Failure,
    Json,
    Receipt,
    RunQueued,
    StepSpec,
    Unknown,
    decode_data,
)
from runfold.snapshot import snapshot

EVENTS_MAX = 400
KEY_LENGTH_MAX = 255
Text = Annotated[str, msgspec.Meta(max_length=1_000)]


class ExternalBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workflow: Text | None = None
    title: Text = ""
    payload: Json = None
    context: dict[str, Json] = {}
    labels: dict[str, str] = {}
    steps: tuple[StepSpec, ...] = ()
    unit_name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z][A-Za-z0-9_]{0,39}$")] = "unit"
    units_total: Count | None = None
    limits: dict[str, Json] = {}
    lease_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    parent_run_id: Text | None = None


class ReportedEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: str
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    id: uuid.UUID | None = None
    at: str | None = None


class EventsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    events: Annotated[tuple[ReportedEvent, ...], msgspec.Meta(min_length=1, max_length=EVENTS_MAX)]


class EventsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    first: int
    last: int
    version: int
    duplicate: bool


class HeartbeatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The status tells the reporter what is wished of it: `pausing`, `stopping`, `cancelling`."""

    run_id: str
    status: str
    version: int
    lease_seconds: float | None


Action = Literal["pause", "resume", "cancel", "complete", "fail", "stop", "paused", "cancelled"]


class ControlBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    action: Action
    reason: Text = ""
    limits: dict[str, Json] = {}
    reason_code: Text | None = None
    message: str = ""
    error: Failure | None = None
    receipt: Receipt | None = None


class CancelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Text = ""


async def post_external(request: web.Request) -> web.Response:
    body: ExternalBody = request[BODY]
    queued = RunQueued(driver="reported", **{name: getattr(body, name) for name in body.__struct_fields__})
    command_id = command_id_of(request)
    run_id = run_id_of(uuid.UUID(command_id))
    executed = await _execute(request, run_id, commands.OpenReported(queued=queued), command_id)
    return await snapshot_response(request, executed, status=201)


async def post_events(request: web.Request) -> web.Response:
    body: EventsBody = request[BODY]
    run_id = request.match_info["run_id"]
    await known_run(request.app[SERVICE], run_id, request[SCOPE].tenant)
    events = tuple(_event_of(index, reported) for index, reported in enumerate(body.events))
    executed = await request.app[SERVICE].ledger.execute(
        run_id,
        commands.Observe(events=events),
        command_id=command_id_of(request),
        actor=request[SCOPE].actor,
        tenant=request[SCOPE].tenant,
        ids=[None if reported.id is None else str(reported.id) for reported in body.events],
        ats_us=[_at_us(index, reported.at) for index, reported in enumerate(body.events)],
    )
    positions = [event.position for event in executed.events]
    return json_response(
        EventsAnswer(
            first=min(positions, default=0),
            last=max(positions, default=0),
            version=max((event.version for event in executed.events), default=executed.run.version),
            duplicate=executed.duplicate,
        )
    )


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


async def delete_run(request: web.Request) -> web.Response:
    body: CancelBody = request[BODY]
    return await _control(request, ControlBody(action="cancel", reason=body.reason))


def command_id_of(request: web.Request) -> str:
    """The same key of the same tenant on the same route is the same command; without a key every request is new."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return str(uuid.uuid4())
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise BadRequest("the Idempotency-Key is empty or too long", hint=f"1 to {KEY_LENGTH_MAX} characters")
    tenant = request[SCOPE].tenant
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}|{request.method} {request.path}|{key}"))


async def _control(request: web.Request, body: ControlBody) -> web.Response:
    run_id = request.match_info["run_id"]
    run = await known_run(request.app[SERVICE], run_id, request[SCOPE].tenant)
    if body.action not in ("pause", "resume", "cancel") and run.is_driven:
        raise BadRequest(
            f"`{body.action}` is said by whoever drives the run; `{run_id}` is driven here",
            hint="pause, resume and cancel are for every run",
            run_id=run_id,
        )
    command = _command_of(body)
    executed = await _execute(request, run_id, command, command_id_of(request))
    return await snapshot_response(request, executed, status=202)


def _command_of(body: ControlBody) -> commands.Command:
    match body.action:
        case "pause":
            return commands.Pause(reason=body.reason)
        case "paused":
            return commands.Paused(reason=body.reason)
        case "resume":
            return commands.Resume(reason=body.reason, limits=body.limits)
        case "cancel":
            return commands.Cancel(reason=body.reason)
        case "cancelled":
            return commands.Cancelled(receipt=body.receipt)
        case "complete":
            return commands.Complete(reason_code=body.reason_code or "REPORTED", message=body.message)
        case "fail":
            error = body.error or Failure(message=body.message)
            return commands.Fail(reason_code=body.reason_code or error.code or "SYS_FAILED", error=error)
        case "stop":
            return commands.Stop(
                reason_code=body.reason_code or "USER_INTERRUPT", condition=body.reason, message=body.message
            )


def _event_of(index: int, reported: ReportedEvent) -> Event | Unknown:
    if reported.type not in EVENT_TYPES:
        raise InvalidEvent(
            f"events[{index}]: there is no event type `{reported.type[:80]}`",
            hint="send it as `telemetry` with `data` {name, data}",
        )
    event: Event | Unknown | None = decode_data(reported.type, bytes(reported.data))
    if event is None:
        raise InvalidEvent(f"events[{index}] has no data")
    return event


def _at_us(index: int, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at_us = time_us(text)
    except (ValueError, OverflowError) as error:
        raise InvalidEvent(
            f"events[{index}].at is not a time", hint="for example 2026-01-31T12:00:00.5Z, with its zone"
        ) from error
    if at_us < 0:
        raise InvalidEvent(f"events[{index}].at is before 1970", hint="look at the reporter's clock")
    return at_us


async def _execute(request: web.Request, run_id: str, command: commands.Command, command_id: str) -> Executed:
    scope = request[SCOPE]
    return await request.app[SERVICE].ledger.execute(
        run_id, command, command_id=command_id, actor=scope.actor, tenant=scope.tenant
    )


async def snapshot_response(request: web.Request, executed: Executed, *, status: int) -> web.Response:
    """The run right after the command: sent again, the command gets that answer again, wherever the run is now."""
    run, position = executed.run, max((event.position for event in executed.events), default=None)
    if executed.duplicate or position is None:
        run, position = await state_at(request.app[SERVICE].log, run.run_id, At(position=position))
    answer: Any = snapshot(run, position=position)
    headers = {"Location": f"/api/runs/{run.run_id}", "ETag": f'"{run.version}"'}
    return json_response(answer, status=status, headers=headers)

"""What a reporter says, as it stands in a request, and the commands that it means: the same over HTTP and a pipe."""

import uuid
from typing import Annotated, Literal

import msgspec

from runfold import commands
from runfold.envelope import time_us
from runfold.errors import BadRequest, InvalidEvent
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

EVENTS_MAX = 400
STATUS_HEADER = "Runfold-Status"
"""The run's status now, beside the answer to a report: `pausing`, `stopping` and `cancelling` are wishes."""
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
    """The same again for the same report; what is wished of the reporter now goes beside it."""

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
    now: bool = False
    """With `pause`: its processes are stopped where they are, not at the turn's end."""
    limits: dict[str, Json] = {}
    reason_code: Text | None = None
    message: str = ""
    error: Failure | None = None
    receipt: Receipt | None = None


class AskBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question to a person; the run is paused until the answer."""

    summary: Text
    kind: Text = "question"
    amount_usd: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    digest: Text | None = None
    expires_at: Text | None = None


def keyed_command_id(tenant: str, method: str, path: str, key: str) -> str:
    """The same key of the same tenant on the same route is the same command, whichever way it comes."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}|{method} {path}|{key}"))


def open_command(body: ExternalBody) -> commands.OpenReported:
    queued = RunQueued(driver="reported", **{name: getattr(body, name) for name in body.__struct_fields__})
    return commands.OpenReported(queued=queued)


def observe_command(body: EventsBody) -> commands.Observe:
    """Raises InvalidEvent, naming the event by its index."""
    return commands.Observe(events=tuple([_event_of(index, reported) for index, reported in enumerate(body.events)]))


def ask_command(body: AskBody) -> commands.RequestApproval:
    return commands.RequestApproval(
        kind=body.kind,
        summary=body.summary,
        amount_micros=None if body.amount_usd is None else round(body.amount_usd * 1_000_000),
        digest=body.digest,
        expires_at=body.expires_at,
    )


def ids_of(body: EventsBody) -> list[str | None]:
    """The id of each event; nothing where no event has one."""
    given = [reported.id for reported in body.events]
    return [None if identity is None else str(identity) for identity in given] if any(given) else []


def ats_us_of(body: EventsBody) -> list[int | None]:
    """The time of each event; nothing where no event has one. Raises InvalidEvent."""
    given = [reported.at for reported in body.events]
    return [_at_us(index, at) for index, at in enumerate(given)] if given.count(None) < len(given) else []


def control_command(body: ControlBody) -> commands.Command:
    """Raises BadRequest."""
    if body.now and body.action != "pause":
        raise BadRequest(f"`now` is said with `pause`, not with `{body.action}`", hint="leave it out")
    match body.action:
        case "pause":
            return commands.Pause(reason=body.reason, now=body.now)
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
    event: Event | Unknown | None = decode_data(reported.type, reported.data)
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

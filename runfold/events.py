"""Every fact that a log can hold, as one frozen Struct each; the names are stored for ever.

An event's JSON is its `data`; the type stands beside it in the envelope (`runfold.envelope`). Fields left at their
default are not stored, so a default, once released, never changes.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from runfold.errors import InvalidEvent
from runfold.long_text import with_heads

EventClass = Literal["lifecycle", "activity", "usage", "output", "audit"]
Driver = Literal["queue", "here", "reported", "imported"]
Json: TypeAlias = Any
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A number that JSON readers keep exactly, and that SQLite can store."""


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=snake_case):
    pass


class _Reported(_Event, frozen=True, kw_only=True):
    """What a driven program may say of its own run; `source` is None where the driver or the agent itself said it.

    `sentinel` is a line of its own that it printed; `workspace` is what the driver saw change there during the turn.
    """

    source: str | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ending a process tree found and did."""

    found: Count = 0
    signals: tuple[str, ...] = ()
    survivors: tuple[int, ...] = ()
    waited_ms: Count = 0


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The error of a run, a turn or a step, as people read it."""

    type: Literal["system", "dependency", "audit", "agent"] = "system"
    code: str = ""
    message: str = ""
    retryable: bool = False
    diagnostic_path: str | None = None
    stack_trace: str | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How it was seen that the work is done."""

    detected: bool = False
    rule: str | None = None
    line: str | None = None


class StepSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the run's dependency graph; without a `command` a person or a program drives it."""

    id: str
    needs: tuple[str, ...] = ()
    skill: str | None = None
    title: str = ""
    command: tuple[str, ...] = ()
    prompt: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attempts_max: Count = 1
    backoff_seconds: float = 0.0
    timeout_seconds: float | None = None
    limits: dict[str, Json] = {}
    approval: str | None = None
    """What a person is asked before the step starts."""


# The run.


class RunQueued(_Event, frozen=True):
    driver: Driver = "queue"
    workflow: str | None = None
    title: str = ""
    payload: Json = None
    context: dict[str, Json] = {}
    labels: dict[str, str] = {}
    command: tuple[str, ...] = ()
    cwd: str | None = None
    typed_by: str = ""
    """Who typed it on which machine, as `user@host`: only there is the command repeated for who asks over HTTP."""
    environment: dict[str, str] = {}
    """Of a typed command: what decides which programs it meets, as PATH. Keys, tokens and all else are not recorded."""
    prompt: str | None = None
    format: str | None = None
    model: str | None = None
    limits: dict[str, Json] = {}
    steps: tuple[StepSpec, ...] = ()
    unit_name: str = "unit"
    units_total: Count | None = None
    max_turns: Count = 1
    cache: bool = True
    """Whether a step may be completed with what an earlier one made of the very same."""
    approval: str | None = None
    """What a person is asked before the run starts."""
    completion: Json = None
    grace_seconds: float = 5.0
    on_lost: Literal["fail", "resume"] = "fail"
    lease_seconds: float | None = None
    retry_of: str | None = None
    resumed_from: str | None = None
    from_step: str | None = None
    parent_run_id: str | None = None
    priority: int = 0


class RunClaimed(_Event, frozen=True):
    worker: str
    claim: Count
    host: str = ""


class ClaimReleased(_Event, frozen=True):
    claim: Count
    worker: str = ""
    reason: str = ""


class ClaimLost(_Event, frozen=True):
    claim: Count
    worker: str = ""
    host: str = ""
    reason: str = ""


class RunRequeued(_Event, frozen=True):
    reason: str = ""
    driver: Driver | None = None
    """Who may take it now, where that has changed."""


class RunStarted(_Event, frozen=True):
    worker: str = ""
    pid: Count | None = None
    pid_started_at: str | None = None
    boot_id: str | None = None


class PauseRequested(_Event, frozen=True):
    reason: str = ""
    now: bool = False


class RunPaused(_Event, frozen=True):
    reason: str = ""
    waiting_on: str | None = None


class ResumeRequested(_Event, frozen=True):
    reason: str = ""
    limits: dict[str, Json] = {}


class RunResumed(_Event, frozen=True):
    reason: str = ""
    driver: Driver | None = None
    limits: dict[str, Json] = {}
    max_turns: Count | None = None
    """More turns than were ordered, for a run that had used them."""


class CancelRequested(_Event, frozen=True):
    reason: str = ""


class RunCancelled(_Event, frozen=True):
    reason: str = ""
    reason_code: str = "CANCELLED_BY_USER"
    receipt: Receipt | None = None


class RunCompleted(_Event, frozen=True):
    reason_code: str
    message: str = ""
    exit_code: int | None = None
    completion: Completion | None = None
    export_location: str | None = None
    files: tuple[str, ...] = ()
    validation_passed: bool | None = None


class RunStopped(_Event, frozen=True):
    reason_code: str
    condition: str = ""
    threshold: float | None = None
    actual: float | None = None
    message: str = ""


class RunFailed(_Event, frozen=True):
    reason_code: str
    error: Failure = Failure()


# Turns: one subprocess each.


class TurnStarted(_Event, frozen=True):
    turn: Count
    step: str | None = None
    attempt: Count = 1
    pid: Count | None = None
    prompt_sha256: str | None = None
    agent_session_id: str | None = None


class TurnCompleted(_Event, frozen=True):
    turn: Count
    step: str | None = None
    attempt: Count = 1
    agent_session_id: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: Count | None = None
    output_bytes: Count = 0
    output_sha256: str | None = None
    output_offset: Count | None = None
    """Where its output begins in `output.log`; what nobody told the end of may stand before it."""


class TurnFailed(_Event, frozen=True):
    turn: Count
    step: str | None = None
    attempt: Count = 1
    agent_session_id: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: Count | None = None
    output_bytes: Count = 0
    output_sha256: str | None = None
    output_offset: Count | None = None
    """Where its output begins in `output.log`; what nobody told the end of may stand before it."""
    error: Failure = Failure()


class TurnCancelled(_Event, frozen=True):
    turn: Count
    step: str | None = None
    attempt: Count = 1
    agent_session_id: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: Count | None = None
    output_bytes: Count = 0
    output_sha256: str | None = None
    output_offset: Count | None = None
    """Where its output begins in `output.log`; what nobody told the end of may stand before it."""
    receipt: Receipt | None = None


class TurnRetrying(_Event, frozen=True):
    turn: Count
    step: str | None = None
    attempt: Count = 1
    error: Failure = Failure()


# Steps: the nodes of the run's graph.


class StepStarted(_Reported, frozen=True):
    step: str
    skill: str | None = None
    attempt: Count = 1
    input: Json = None
    metadata: dict[str, Json] = {}


class StepCompleted(_Reported, frozen=True):
    step: str
    attempt: Count = 1
    output: Json = None
    cache_hit: bool = False
    cache_key: str | None = None
    duration_ms: Count | None = None
    metadata: dict[str, Json] = {}
    also: tuple[str, ...] = ()
    """Further steps that a retry reuses, where one append cannot hold an event for each."""


class StepFailed(_Reported, frozen=True):
    step: str
    attempt: Count = 1
    error: Failure = Failure()
    output: Json = None
    duration_ms: Count | None = None
    metadata: dict[str, Json] = {}


class StepSkipped(_Reported, frozen=True):
    step: str
    reason: str = ""


class StepCancelled(_Reported, frozen=True):
    step: str
    attempt: Count = 1
    reason: str = ""


class StepMarkedForRerun(_Reported, frozen=True):
    step: str
    reason: str = ""
    because_of: str | None = None
    also: tuple[str, ...] = ()
    """Further steps to which the same happened, where one append cannot hold an event for each."""


class StepReset(_Reported, frozen=True):
    step: str
    reason: str = ""
    because_of: str | None = None
    also: tuple[str, ...] = ()
    """Further steps to which the same happened, where one append cannot hold an event for each."""


# Units: counted pieces of work.


class UnitsPlanned(_Reported, frozen=True):
    total: Count
    unit_name: str | None = None


class UnitStarted(_Reported, frozen=True):
    unit: str
    index: Count | None = None
    attempt: Count = 1
    action: str | None = None
    strategy: str | None = None


class UnitAction(_Reported, frozen=True):
    unit: str
    action: str
    index: Count | None = None
    attempt: Count = 1
    strategy: str | None = None
    reason: str = ""


class UnitApproved(_Reported, frozen=True):
    unit: str
    index: Count | None = None
    attempt: Count = 1


class UnitRejected(_Reported, frozen=True):
    unit: str
    index: Count | None = None
    attempt: Count = 1
    reason: str = ""


class UnitFailed(_Reported, frozen=True):
    unit: str
    index: Count | None = None
    attempt: Count = 1
    reason: str = ""
    error: Failure | None = None


class ContextSet(_Reported, frozen=True):
    key: str
    value: Json = None


# Activity: what the work did.


class Message(_Reported, frozen=True):
    text: str
    role: str = "assistant"


class Reasoning(_Reported, frozen=True):
    text: str


class PlanUpdated(_Reported, frozen=True):
    items: tuple[Json, ...] = ()


class ToolCalled(_Reported, frozen=True):
    tool: str
    call_id: str
    arguments: Json = None


class ToolReturned(_Reported, frozen=True):
    call_id: str
    tool: str = ""
    result: Json = None
    status: str = "completed"


class CommandExecuted(_Reported, frozen=True):
    command: str
    exit_code: int | None = None
    status: str = "completed"
    duration_ms: Count | None = None
    output_tail: str = ""


class AgentError(_Reported, frozen=True):
    message: str
    retryable: bool = False
    code: str | None = None
    error_type: str | None = None
    diagnostic_path: str | None = None


class FileWritten(_Reported, frozen=True):
    path: str
    bytes: Count | None = None
    kind: str | None = None
    sha256: str | None = None


class FileRead(_Reported, frozen=True):
    path: str
    bytes: Count | None = None


class FileDeleted(_Reported, frozen=True):
    path: str


class LogUpdated(_Reported, frozen=True):
    path: str
    bytes_added: Count = 0
    tail: str = ""


class TestRunStarted(_Reported, frozen=True):
    __test__ = False
    framework: str = ""
    command: str = ""


class TestRunCompleted(_Reported, frozen=True):
    __test__ = False
    framework: str = ""
    command: str = ""
    passed: Count = 0
    failed: Count = 0
    skipped: Count = 0
    duration_ms: Count | None = None


# Usage, output, artifacts.


class TokenUsage(_Reported, frozen=True):
    model: str | None = None
    provider: str | None = None
    session: str | None = None
    input_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    cumulative: Json = None
    semantics: Literal["delta", "provisional"] = "delta"
    cost_micros: Count | None = None
    price_source: str | None = None
    step: str | None = None


class SubprocessOutput(_Event, frozen=True):
    text: str
    stream: str = "stdout"
    offset: Count = 0
    skipped_bytes: Count = 0


class ArtifactStored(_Reported, frozen=True):
    artifact_id: str
    name: str
    sha256: str
    media_type: str = "application/octet-stream"
    size_bytes: Count = 0
    step: str | None = None


class CostEstimated(_Reported, frozen=True):
    scope: str = "run"
    low_micros: Count = 0
    high_micros: Count = 0
    basis: str = ""


# Limits and approvals.


class LimitWarned(_Event, frozen=True):
    limit: str
    scope: str = "run"
    threshold: float = 0
    actual: float = 0
    overshoot: float = 0
    on_exceed: Literal["warn", "ask", "stop"] = "warn"
    reason: str = ""


class LimitExceeded(_Event, frozen=True):
    limit: str
    scope: str = "run"
    threshold: float = 0
    actual: float = 0
    overshoot: float = 0
    on_exceed: Literal["warn", "ask", "stop"] = "stop"
    reason: str = ""


class ApprovalRequested(_Event, frozen=True):
    approval_id: str
    kind: str = ""
    summary: str = ""
    amount_micros: Count | None = None
    digest: str | None = None
    expires_at: str | None = None


class ApprovalGranted(_Event, frozen=True):
    approval_id: str
    comment: str = ""
    amount_micros: Count | None = None


class ApprovalDenied(_Event, frozen=True):
    approval_id: str
    comment: str = ""


class ApprovalExpired(_Event, frozen=True):
    approval_id: str


# Notes, and what the vocabulary does not know.


class NoteAdded(_Event, frozen=True):
    text: str


class LabelChanged(_Event, frozen=True):
    key: str
    value: str | None = None


class TitleChanged(_Event, frozen=True):
    title: str


class Telemetry(_Reported, frozen=True):
    name: str
    data: Json = None


class TelemetryRejected(_Event, frozen=True):
    reason: str
    sample: str = ""
    count: Count = 1


class EventRedacted(_Event, frozen=True):
    """`digests["data"]`: the sha256 of what is left of the event; absent where nothing is."""

    version: Count
    hash: str = ""
    reason: str = ""
    digests: dict[str, str] = {}


class RunArchived(_Event, frozen=True):
    run_id: str = ""
    digests: dict[str, str] = {}
    counts: dict[str, int] = {}
    reason: str = ""
    archive: str = ""
    summary: Json = None


# The system stream, and refusals.


class TokenCreated(_Event, frozen=True):
    digest: str
    name: str = ""
    tenant: str = "default"
    role: str = "viewer"
    expires_at: str | None = None


class TokenRevoked(_Event, frozen=True):
    digest: str
    reason: str = ""


class SessionOpened(_Event, frozen=True):
    """`digest` of the session's secret, `token` that of the token it hangs on; a link logs in once."""

    digest: str
    token: str
    expires_at: str
    is_link: bool = False


class SessionClosed(_Event, frozen=True):
    digest: str


class Anchor(_Event, frozen=True):
    position: Count
    digest: str
    previous: str = ""


class LogTrimmed(_Event, frozen=True):
    position: Count
    run_id: str = ""


class ViewEventSkipped(_Event, frozen=True):
    view: str
    position: Count
    reason: str = ""


class LateEventRejected(_Event, frozen=True):
    run_id: str
    event_type: str
    reason: str = ""
    count: Count = 1


class CommandRefused(_Event, frozen=True):
    run_id: str
    refused: str
    code: str = ""
    reason: str = ""
    count: Count = 1


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a type this version does not know: kept, streamed and exported, ignored by folds."""

    type: str
    data: msgspec.Raw


# Families: whoever treats some events alike names them by one of these.
DriverEvent: TypeAlias = RunQueued | RunClaimed | ClaimReleased | ClaimLost | RunRequeued | RunStarted
CourseEvent: TypeAlias = PauseRequested | RunPaused | ResumeRequested | RunResumed | CancelRequested
RunEnded: TypeAlias = RunCancelled | RunCompleted | RunStopped | RunFailed
TurnEnded: TypeAlias = TurnCompleted | TurnFailed | TurnCancelled
TurnEvent: TypeAlias = TurnStarted | TurnEnded | TurnRetrying
StepEvent: TypeAlias = (
    StepStarted | StepCompleted | StepFailed | StepSkipped | StepCancelled | StepMarkedForRerun | StepReset
)  # fmt: skip
UnitEvent: TypeAlias = UnitStarted | UnitAction | UnitApproved | UnitRejected | UnitFailed
ApprovalAnswered: TypeAlias = ApprovalGranted | ApprovalDenied | ApprovalExpired
ApprovalEvent: TypeAlias = ApprovalRequested | ApprovalAnswered

Lifecycle: TypeAlias = (
    DriverEvent | CourseEvent | RunEnded | TurnEvent | StepEvent | UnitsPlanned | UnitEvent | ContextSet
    | ArtifactStored | LimitWarned | LimitExceeded
)  # fmt: skip
Activity: TypeAlias = (
    Message | Reasoning | PlanUpdated | ToolCalled | ToolReturned | CommandExecuted | AgentError
    | FileWritten | FileRead | FileDeleted | LogUpdated | TestRunStarted | TestRunCompleted | Telemetry
)  # fmt: skip
Usage: TypeAlias = TokenUsage | CostEstimated
Output: TypeAlias = SubprocessOutput
Audit: TypeAlias = (
    ApprovalEvent | NoteAdded | LabelChanged | TitleChanged | TelemetryRejected | EventRedacted | RunArchived
    | TokenCreated | TokenRevoked | SessionOpened | SessionClosed | Anchor | LogTrimmed | ViewEventSkipped
    | LateEventRejected | CommandRefused
)  # fmt: skip
Event: TypeAlias = Lifecycle | Activity | Usage | Output | Audit

_BY_CLASS: tuple[tuple[EventClass, Any], ...] = (
    ("lifecycle", get_args(Lifecycle)),
    ("activity", get_args(Activity)),
    ("usage", get_args(Usage)),
    ("output", (SubprocessOutput,)),
    ("audit", get_args(Audit)),
)
EVENT_TYPES: dict[str, type[Event]] = {snake_case(kind.__name__): kind for _, kinds in _BY_CLASS for kind in kinds}
EVENT_CLASSES: dict[str, EventClass] = {snake_case(kind.__name__): name for name, kinds in _BY_CLASS for kind in kinds}
_TAGS = {kind: name for name, kind in EVENT_TYPES.items()}
_PREFIX_BYTES = {kind: len(f'{{"type":"{name}"') for name, kind in EVENT_TYPES.items()}
_encode = msgspec.json.Encoder().encode
REWRITES = frozenset({"event_redacted", "run_archived"})
"""After one of these an earlier event of the run is no longer what it was: whoever folded it folds the run anew."""
DATA_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Made when first needed: to make all of them would cost every command line a millisecond.
_decoders: dict[str, Callable[[bytes], Event]] = {}


def event_type(event: Event | Unknown) -> str:
    """The stored type of an event, as `events.md` and the log spell it: `file_written`."""
    return event.type if isinstance(event, Unknown) else _TAGS[type(event)]


def event_class(type_name: str) -> EventClass:
    """Which class a type belongs to; an unknown type is activity."""
    return EVENT_CLASSES.get(type_name, "activity")


def encode_data(event: Event | Unknown) -> bytes:
    """The event's `data` as one JSON object, without its type."""
    if isinstance(event, Unknown):
        return bytes(event.data)
    rest = _encode(event)[_PREFIX_BYTES[type(event)] :]
    return b"{" + rest[1:] if rest[:1] == b"," else b"{}"


def decoder_of(type_name: str) -> Callable[[bytes], Event | Unknown]:
    """What reads the data of a stored type; it raises DATA_ERRORS."""
    decode = _decoders.get(type_name)
    if decode is not None:
        return decode
    kind = EVENT_TYPES.get(type_name)
    if kind is None:
        return lambda data: Unknown(type=type_name, data=msgspec.Raw(data))
    decode = _decoders[type_name] = msgspec.json.Decoder(kind).decode
    return decode


def decode_data(type_name: str, data: bytes | None) -> Event | Unknown | None:
    """The event of a stored type and its data; None where the data was redacted.

    Raises InvalidEvent when a known type's data has another shape.
    """
    if data is None:
        return None
    try:
        return decoder_of(type_name)(data)
    except DATA_ERRORS as error:
        raise InvalidEvent(
            f"data of `{type_name}` is not valid: {error}", hint="compare it with docs/events.md"
        ) from error


def decode_stored(type_name: str, data: bytes | None) -> Event | Unknown | None:
    """The event of the log's data: as `decode_data`, and a text stored apart is read as its beginning.

    Raises InvalidEvent. What a caller sends goes through `decode_data`, which takes no object for a text.
    """
    try:
        return decode_data(type_name, data)
    except InvalidEvent:
        if data is None or b'"blob"' not in data:
            raise
        try:
            content = with_heads(data)
        except (msgspec.DecodeError, RecursionError):
            content = data
        return decode_data(type_name, content)

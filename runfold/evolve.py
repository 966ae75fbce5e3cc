"""The fold: a run after one more event. It believes every event, holds no rule, and never raises."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, assert_never

from msgspec.structs import replace

from runfold.envelope import Recorded
from runfold.errors import InvalidEvent
from runfold.events import (
    AgentError,
    Anchor,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    ArtifactStored,
    CancelRequested,
    ClaimLost,
    ClaimReleased,
    CommandExecuted,
    CommandRefused,
    ContextSet,
    CostEstimated,
    Event,
    EventRedacted,
    Failure,
    FileDeleted,
    FileRead,
    FileWritten,
    LabelChanged,
    LateEventRejected,
    LimitExceeded,
    LimitWarned,
    LogTrimmed,
    LogUpdated,
    Message,
    NoteAdded,
    PauseRequested,
    PlanUpdated,
    Reasoning,
    ResumeRequested,
    RunArchived,
    RunCancelled,
    RunClaimed,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    RunStopped,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepMarkedForRerun,
    StepReset,
    StepSkipped,
    StepStarted,
    SubprocessOutput,
    Telemetry,
    TelemetryRejected,
    TestRunCompleted,
    TestRunStarted,
    TokenCreated,
    TokenRevoked,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnRetrying,
    TurnStarted,
    UnitAction,
    UnitApproved,
    UnitFailed,
    UnitRejected,
    UnitsPlanned,
    UnitStarted,
    Unknown,
    ViewEventSkipped,
)
from runfold.reasons import is_open_code, limit_code, sentence
from runfold.state import OpenStep, Run, Status, Tests, Tokens, Units

OPEN_TOOLS_MAX = 200  # An agent whose calls never return must not make the state, or what ends the run, grow for ever.

_Lasting: TypeAlias = RunQueued | RunClaimed | ClaimReleased | ClaimLost | RunRequeued | RunStarted
_Asked: TypeAlias = PauseRequested | RunPaused | ResumeRequested | RunResumed | CancelRequested | LimitExceeded
_Rested: TypeAlias = RunCancelled | RunCompleted | RunStopped | RunFailed
_Turn: TypeAlias = TurnStarted | TurnCompleted | TurnFailed | TurnCancelled | TurnRetrying
_Step: TypeAlias = (
    StepStarted | StepCompleted | StepFailed | StepSkipped | StepCancelled | StepMarkedForRerun | StepReset
)  # fmt: skip
_Unit: TypeAlias = UnitsPlanned | UnitStarted | UnitAction | UnitApproved | UnitRejected | UnitFailed
_Counted: TypeAlias = ToolCalled | ToolReturned | AgentError | FileWritten | TestRunCompleted | TokenUsage
_Approval: TypeAlias = ApprovalRequested | ApprovalGranted | ApprovalDenied | ApprovalExpired

# What the order calls `completion` are rules; the run's own says how one of them was fulfilled.
_SAID_AT_OPENING = tuple(
    name for name in RunQueued.__struct_fields__ if name in Run.__struct_fields__ and name != "completion"
)
# The bulk of every log: their data need not even be decoded.
_CHANGING_NOTHING = frozenset({"subprocess_output", "message", "reasoning", "file_read", "command_executed"})
_FREE: dict[str, Any] = {"worker": "", "host": "", "pid": None, "boot_id": None}


def evolve(run: Run, event: Event | Unknown | None, *, at_us: int) -> Run:
    """The run after `event`, which happened at `at_us`; None is an event whose data was redacted."""
    changed = _evolve(run, event, at_us)
    return replace(changed, version=run.version + 1, updated_at_us=max(run.updated_at_us, at_us))


def fold(run: Run, recordeds: Iterable[Recorded]) -> Run:
    """The run after all of these; an event whose data cannot be read any more only counts."""
    for recorded in recordeds:
        run = evolve_recorded(run, recorded)
    return run


def evolve_recorded(run: Run, recorded: Recorded) -> Run:
    """The run after a recorded event; one whose data cannot be read any more only counts."""
    if run.version == 0:
        run = replace(run, tenant=recorded.tenant)
    event = None
    if recorded.type not in _CHANGING_NOTHING:
        try:
            event = recorded.event()
        except InvalidEvent:
            event = None
    return evolve(run, event, at_us=recorded.at_us)


def _evolve(run: Run, event: Event | Unknown | None, at_us: int) -> Run:
    match event:
        case None | Unknown():
            return run
        # Classes are tried in order, so what a log holds most of comes first.
        case ToolCalled() | ToolReturned() | AgentError() | FileWritten() | TestRunCompleted() | TokenUsage():
            return _counted(run, event)
        case RunQueued() | RunClaimed() | ClaimReleased() | ClaimLost() | RunRequeued() | RunStarted():
            return _lasting(run, event, at_us)
        case PauseRequested() | RunPaused() | ResumeRequested() | RunResumed() | CancelRequested() | LimitExceeded():
            return _asked(run, event)
        case RunCancelled() | RunCompleted() | RunStopped() | RunFailed():
            return _rested(run, event, at_us)
        case TurnStarted() | TurnCompleted() | TurnFailed() | TurnCancelled() | TurnRetrying():
            return _turn(run, event)
        case (
            StepStarted() | StepCompleted() | StepFailed() | StepSkipped() | StepCancelled()
            | StepMarkedForRerun() | StepReset()
        ):  # fmt: skip
            return _step(run, event)
        case UnitsPlanned() | UnitStarted() | UnitAction() | UnitApproved() | UnitRejected() | UnitFailed():
            return _unit(run, event)
        case ApprovalRequested() | ApprovalGranted() | ApprovalDenied() | ApprovalExpired():
            return _approval(run, event)
        case ContextSet():
            return replace(run, context={**run.context, event.key: event.value})
        case LabelChanged():
            labels = {key: value for key, value in run.labels.items() if key != event.key}
            return replace(run, labels=labels if event.value is None else {**labels, event.key: event.value})
        case (
            Message() | Reasoning() | PlanUpdated() | CommandExecuted() | FileRead() | FileDeleted() | LogUpdated()
            | TestRunStarted() | Telemetry() | CostEstimated() | SubprocessOutput() | ArtifactStored() | LimitWarned()
            | NoteAdded() | TelemetryRejected() | EventRedacted() | RunArchived() | TokenCreated() | TokenRevoked()
            | Anchor() | LogTrimmed() | ViewEventSkipped() | LateEventRejected() | CommandRefused()
        ):  # fmt: skip
            return run
        case _:
            assert_never(event)


def _now(run: Run, status: Status, code: str, **changes: Any) -> Run:
    return replace(run, status=status, reason_code=code, message=sentence(code), **changes)


def _lasting(run: Run, event: _Lasting, at_us: int) -> Run:
    match event:
        case RunQueued():
            return _queued(run, event, at_us)
        case RunClaimed():
            held = replace(run, worker=event.worker, host=event.host, claim=event.claim)
            if run.status != "queued":
                return held
            # A hand-started run that its own terminal claims again goes on at once.
            goes_on = run.started and run.driver == "here"
            return _now(held, "running", "WORKING") if goes_on else _now(held, "queued", "STARTING")
        case ClaimReleased():
            freed = replace(run, **_FREE)
            return _now(freed, "queued", "QUEUED") if run.status == "queued" else freed
        case ClaimLost():
            return replace(run, recoveries=run.recoveries + 1, **_FREE)
        case RunRequeued():
            return _now(run, "queued", "QUEUED", waiting_on=None, completed_at_us=None, **_FREE)
        case RunStarted():
            return _now(
                run,
                "running",
                "WORKING",
                worker=event.worker or run.worker,
                pid=event.pid,
                boot_id=event.boot_id,
                started=True,
                started_at_us=at_us if run.started_at_us is None else run.started_at_us,
            )
        case _:
            assert_never(event)


def _queued(run: Run, event: RunQueued, at_us: int) -> Run:
    said: dict[str, Any] = {name: getattr(event, name) for name in _SAID_AT_OPENING}
    return _now(run, "queued", "QUEUED", created_at_us=at_us, **said)


def _asked(run: Run, event: _Asked) -> Run:
    match event:
        case PauseRequested():
            return _now(run, "pausing", "PAUSING")
        case RunPaused():
            asks = (event.waiting_on or "").startswith("approval:")
            return _now(run, "paused", "AWAITING_APPROVAL" if asks else "PAUSED", waiting_on=event.waiting_on)
        case ResumeRequested():
            return run
        case RunResumed():
            driver = event.driver or run.driver
            changes: dict[str, Any] = {
                "driver": driver,
                "limits": {**run.limits, **event.limits},
                "waiting_on": None,
                "completed_at_us": None,
                "stop_code": "",
            }
            goes_on = bool(run.worker) or driver in ("reported", "imported")
            return _now(run, "running", "WORKING", **changes) if goes_on else _now(run, "queued", "QUEUED", **changes)
        case CancelRequested():
            return _now(run, "cancelling", "CANCELLING")
        case LimitExceeded():
            if event.on_exceed == "warn":
                return run
            if event.on_exceed == "ask":
                return _now(run, "pausing", "PAUSING")
            return _now(run, "stopping", "STOPPING", stop_code=limit_code(event.limit))
        case _:
            assert_never(event)


def _rested(run: Run, event: _Rested, at_us: int) -> Run:
    units = replace(run.units, current=None, action=None)
    run = replace(run, completed_at_us=at_us, waiting_on=None, stop_code="", units=units, **_FREE)
    match event:
        case RunCancelled():
            return _now(run, "cancelled", event.reason_code)
        case RunStopped():
            stopped = _now(run, "stopped", event.reason_code)
            return replace(stopped, message=event.message) if event.message else stopped
        case RunCompleted():
            exit_code = run.exit_code if event.exit_code is None else event.exit_code
            done = _now(run, "completed", event.reason_code, exit_code=exit_code, completion=event.completion)
            return replace(done, message=event.message) if event.message else done
        case RunFailed():
            failed = _now(run, "failed", event.reason_code, error=event.error)
            return replace(failed, message=event.error.message) if event.error.message else failed
        case _:
            assert_never(event)


def _turn(run: Run, event: _Turn) -> Run:
    match event:
        case TurnStarted():
            started = replace(run, turn=event.turn, turn_open=True, turns=run.turns + 1, last_agent_error=None)
            return _now(started, "running", "WORKING") if run.status == "running" else started
        case TurnCompleted() | TurnFailed() | TurnCancelled():
            exit_code = run.exit_code if event.exit_code is None else event.exit_code
            session = event.agent_session_id or run.agent_session_id
            return replace(run, turn_open=False, exit_code=exit_code, agent_session_id=session)
        case TurnRetrying():
            return _now(run, "running", "RETRYING") if run.status == "running" else run
        case _:
            assert_never(event)


def _step(run: Run, event: _Step) -> Run:
    others = tuple(it for it in run.open_steps if it.step != event.step)
    match event:
        case StepStarted():
            opened = OpenStep(step=event.step, attempt=event.attempt)
            return run if run.is_resting else replace(run, open_steps=(*others, opened))
        case StepCompleted() | StepFailed() | StepSkipped() | StepCancelled() | StepReset():
            return replace(run, open_steps=others)
        case StepMarkedForRerun():
            return run
        case _:
            assert_never(event)


def _unit(run: Run, event: _Unit) -> Run:
    units = run.units
    match event:
        case UnitsPlanned():
            return replace(run, units_total=event.total, unit_name=event.unit_name or run.unit_name)
        case UnitStarted():
            units = replace(
                _at_work(units, event),
                started=units.started + (event.attempt <= 1),
                attempts=units.attempts + 1,
                retried=units.retried + (event.attempt == 2),
            )
        case UnitAction():
            units = units if run.is_resting else _at_work(units, event)
        case UnitApproved():
            units = replace(units, approved=units.approved + 1, current=None, action=None)
        case UnitRejected():
            units = replace(units, rejected=units.rejected + 1, current=None, action=None)
        case UnitFailed():
            units = replace(units, failed=units.failed + 1, current=None, action=None)
        case _:
            assert_never(event)
    return replace(run, units=units)


def _at_work(units: Units, event: UnitStarted | UnitAction) -> Units:
    index = units.current_index if event.index is None else event.index
    return replace(units, current=event.unit, current_index=index, current_attempt=event.attempt, action=event.action)


def _counted(run: Run, event: _Counted) -> Run:
    match event:
        case ToolCalled():
            # A late report of a run that rests is kept in the log, and opens nothing.
            if run.is_resting:
                return run
            kept = run.open_tools
            if len(kept) >= OPEN_TOOLS_MAX:
                kept = dict(list(kept.items())[1:])
            return replace(run, open_tools={**kept, event.call_id: event.tool})
        case ToolReturned():
            if event.call_id not in run.open_tools:
                return run
            left = {call_id: tool for call_id, tool in run.open_tools.items() if call_id != event.call_id}
            return replace(run, open_tools=left)
        case AgentError():
            return replace(run, last_agent_error=_failure(event)) if is_open_code(event.code) else run
        case FileWritten():
            return replace(run, files=run.files + 1)
        case TestRunCompleted():
            tests = Tests(
                runs=run.tests.runs + 1,
                passed=run.tests.passed + event.passed,
                failed=run.tests.failed + event.failed,
                skipped=run.tests.skipped + event.skipped,
            )
            return replace(run, tests=tests)
        case TokenUsage():
            cost = run.cost_micros if event.cost_micros is None else (run.cost_micros or 0) + event.cost_micros
            return replace(run, tokens=_sum(run.tokens, event), cost_micros=cost)
        case _:
            assert_never(event)


def _sum(tokens: Tokens, usage: TokenUsage) -> Tokens:
    return Tokens(
        input_tokens=tokens.input_tokens + usage.input_tokens,
        cache_read_tokens=tokens.cache_read_tokens + usage.cache_read_tokens,
        cache_write_tokens=tokens.cache_write_tokens + usage.cache_write_tokens,
        output_tokens=tokens.output_tokens + usage.output_tokens,
        reasoning_tokens=tokens.reasoning_tokens + usage.reasoning_tokens,
    )


def _failure(event: AgentError) -> Failure:
    code = event.code or ""
    kind: Literal["system", "dependency", "audit", "agent"] = "dependency" if code.startswith("DEP_") else "system"
    match event.error_type:
        case "system" | "dependency" | "audit" | "agent" as said:
            kind = said
        case _:
            pass
    return Failure(
        type=kind,
        code=code,
        message=event.message,
        retryable=event.retryable,
        diagnostic_path=event.diagnostic_path,
    )


def _approval(run: Run, event: _Approval) -> Run:
    others = tuple(approval_id for approval_id in run.open_approvals if approval_id != event.approval_id)
    match event:
        case ApprovalRequested():
            return run if run.is_resting else replace(run, open_approvals=(*others, event.approval_id))
        case ApprovalGranted() | ApprovalDenied() | ApprovalExpired():
            answered = run.waiting_on == f"approval:{event.approval_id}"
            return replace(run, open_approvals=others, waiting_on=None if answered else run.waiting_on)
        case _:
            assert_never(event)

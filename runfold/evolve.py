"""The fold: a run after one more event. It believes every event, holds no rule, and never raises."""

from collections.abc import Iterable
from typing import Any, assert_never, cast

from msgspec import ValidationError, convert, to_builtins
from msgspec.structs import replace

from runfold.approval_states import evolve_approvals
from runfold.counting import COUNTS
from runfold.envelope import Recorded
from runfold.errors import InvalidEvent
from runfold.events import (
    AgentError,
    Anchor,
    ApprovalEvent,
    ApprovalRequested,
    ArtifactStored,
    CancelRequested,
    ClaimLost,
    ClaimReleased,
    CommandExecuted,
    CommandRefused,
    ContextSet,
    CostEstimated,
    CourseEvent,
    DriverEvent,
    Event,
    EventRedacted,
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
    RunEnded,
    RunFailed,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    RunStopped,
    SessionClosed,
    SessionOpened,
    StepCancelled,
    StepCompleted,
    StepEvent,
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
    TitleChanged,
    TokenCreated,
    TokenRevoked,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    TurnCancelled,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnRetrying,
    TurnStarted,
    UnitAction,
    UnitEvent,
    UnitsPlanned,
    UnitStarted,
    Unknown,
    ViewEventSkipped,
)
from runfold.limits import with_new
from runfold.reasons import sentence
from runfold.state import LimitHit, OpenStep, OpenTurn, Repeats, Run, Status
from runfold.step_states import count_turn, evolve_step
from runfold.units import action_code, evolve_units

CONTEXT_KEYS_MAX = 256
LABELS_MAX = 64
ACTIVE = frozenset({"running", "pausing", "cancelling", "stopping"})

# What the order calls `completion` are rules; the run's own says how one of them was fulfilled.
_SAID_AT_OPENING = tuple(
    name for name in RunQueued.__struct_fields__ if name in Run.__struct_fields__ and name != "completion"
)
# The bulk of every log: their data need not even be decoded.
CHANGING_NOTHING = frozenset({"subprocess_output", "message", "reasoning", "file_read"})
_FREE: dict[str, Any] = {"worker": "", "host": "", "pid": None, "boot_id": None}


def evolve(run: Run, event: Event | Unknown | None, *, at_us: int) -> Run:
    """The run after `event`, which happened at `at_us`; None is an event whose data was redacted."""
    now_us = max(run.updated_at_us, at_us)
    counts = COUNTS.get(type(event))
    if counts is not None:
        return replace(run, version=run.version + 1, updated_at_us=now_us, **counts(run, event))
    changed = _evolve(run, event, at_us)
    if changed.status != run.status:
        changed = _timed(changed, now_us)
    return replace(changed, version=run.version + 1, updated_at_us=now_us)


def fold(run: Run, recordeds: Iterable[Recorded]) -> Run:
    """The run after all of these; an event whose data cannot be read any more only counts."""
    for recorded in recordeds:
        run = evolve_recorded(run, recorded)
    return run


def evolve_recorded(run: Run, recorded: Recorded) -> Run:
    """The run after a recorded event; one whose data cannot be read any more only counts."""
    event = None
    if recorded.type not in CHANGING_NOTHING:
        try:
            event = recorded.event()
        except InvalidEvent:
            event = None
    return evolve_decoded(run, recorded, event)


def evolve_decoded(run: Run, recorded: Recorded, event: Event | Unknown | None) -> Run:
    """The same, where somebody has decoded the event already."""
    if run.version == 0:
        run = replace(run, tenant=recorded.tenant)
    return evolve(run, event, at_us=recorded.at_us)


def _timed(run: Run, now_us: int) -> Run:
    """Count the time in which the run goes on."""
    if run.status in ACTIVE:
        return run if run.active_since_us is not None else replace(run, active_since_us=now_us)
    if run.active_since_us is None:
        return run
    return replace(run, active_us=run.active_us + max(0, now_us - run.active_since_us), active_since_us=None)


def _evolve(run: Run, event: Event | Unknown | None, at_us: int) -> Run:
    if isinstance(event, DriverEvent):
        return _lasting(run, event, at_us)
    if isinstance(event, CourseEvent | LimitExceeded):
        return _asked(run, event)
    if isinstance(event, RunEnded):
        return _rested(run, event, at_us)
    if isinstance(event, TurnEvent):
        return _turn(run, event)
    if isinstance(event, StepEvent):
        return _step(run, event, at_us)
    if isinstance(event, UnitsPlanned | UnitEvent):
        return _unit(run, event, at_us)
    if isinstance(event, ApprovalEvent):
        return _approval(run, event, at_us)
    match event:
        case None | Unknown():
            return run
        case LimitWarned():
            return replace(run, told={**run.told, f"{event.scope}:{event.limit}:warned": event.threshold})
        case ContextSet():
            known = event.key in run.context or len(run.context) < CONTEXT_KEYS_MAX
            return replace(run, context={**run.context, event.key: event.value}) if known else run
        case TitleChanged():
            return replace(run, title=event.title)
        case LabelChanged():
            labels = {key: value for key, value in run.labels.items() if key != event.key}
            full = len(labels) >= LABELS_MAX
            return replace(run, labels=labels if event.value is None or full else {**labels, event.key: event.value})
        case RunArchived():
            return with_summary(run, event)
        case CostEstimated():
            return replace(run, estimate=event) if event.scope == "run" else run
        case (
            # What COUNTS takes does not come here.
            ToolCalled() | ToolReturned() | CommandExecuted() | AgentError() | FileWritten() | TestRunCompleted()
            | TokenUsage() | Message() | Reasoning() | PlanUpdated() | FileRead() | FileDeleted() | LogUpdated()
            | TestRunStarted() | Telemetry() | SubprocessOutput() | ArtifactStored()
            | NoteAdded() | TelemetryRejected() | EventRedacted() | TokenCreated() | TokenRevoked()
            | SessionOpened() | SessionClosed() | Anchor() | LogTrimmed() | ViewEventSkipped()
            | LateEventRejected() | CommandRefused()
        ):  # fmt: skip
            return run
        case _:
            assert_never(event)


def with_summary(run: Run, event: RunArchived) -> Run:
    """The run as its summary tells it, where events that told it are no longer there."""
    summary: Any = event.summary
    if not isinstance(summary, dict):
        return run
    fields = cast("dict[str, Any]", summary).get("run")
    if not isinstance(fields, dict):
        return run
    try:
        return convert({**to_builtins(run), **fields}, Run)
    except ValidationError:
        return run


def _now(run: Run, status: Status, code: str, **changes: Any) -> Run:
    return replace(run, status=status, reason_code=code, message=sentence(code), **changes)


def _lasting(run: Run, event: DriverEvent, at_us: int) -> Run:
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
            driver = event.driver or run.driver
            return _now(run, "queued", "QUEUED", driver=driver, waiting_on=None, completed_at_us=None, **_FREE)
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


def _asked(run: Run, event: CourseEvent | LimitExceeded) -> Run:
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
                "limits": with_new(run.limits, event.limits),
                "max_turns": run.max_turns if event.max_turns is None else event.max_turns,
                "waiting_on": None,
                "completed_at_us": None,
                "hit": None,
                "stop_condition": "",
                "stop_threshold": None,
                "stop_actual": None,
                "fails_in_row": 0,
                "repeats": Repeats(),
                "units": replace(run.units, fails_in_row=0),
            }
            goes_on = bool(run.worker) or driver in ("reported", "imported")
            return _now(run, "running", "WORKING", **changes) if goes_on else _now(run, "queued", "QUEUED", **changes)
        case CancelRequested():
            return _now(run, "cancelling", "CANCELLING")
        case LimitExceeded():
            return _exceeded(run, event)
        case _:
            assert_never(event)


def _exceeded(run: Run, event: LimitExceeded) -> Run:
    kind = f"{event.scope}:{event.limit}:{event.reason or 'exceeded'}"
    run = replace(run, told={**run.told, kind: event.threshold})
    if event.on_exceed == "warn" or run.is_final:
        return run
    hit = LimitHit(
        limit=event.limit,
        scope=event.scope,
        threshold=event.threshold,
        actual=event.actual,
        on_exceed=event.on_exceed,
        reason=event.reason,
    )
    if event.on_exceed == "ask":
        return _now(run, "pausing", "PAUSING", hit=hit)
    if event.scope.startswith("step:"):
        return replace(run, step_hits={**run.step_hits, event.scope.removeprefix("step:"): hit})
    return _now(run, "stopping", "STOPPING", hit=hit)


def _rested(run: Run, event: RunEnded, at_us: int) -> Run:
    units = replace(run.units, current=None, action=None)
    run = replace(run, completed_at_us=at_us, waiting_on=None, hit=None, step_hits={}, units=units, **_FREE)
    match event:
        case RunCancelled():
            return _now(run, "cancelled", event.reason_code)
        case RunStopped():
            stopped = _now(
                run,
                "stopped",
                event.reason_code,
                stop_condition=event.condition,
                stop_threshold=event.threshold,
                stop_actual=event.actual,
            )
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


def _turn(run: Run, event: TurnEvent) -> Run:
    others = tuple(it for it in run.open_turns if it.turn != event.turn)
    match event:
        case TurnStarted():
            opened = OpenTurn(turn=event.turn, step=event.step, attempt=event.attempt)
            states = run.step_states if event.step is None else count_turn(run.step_states, event.step)
            started = replace(
                run,
                turn=event.turn,
                open_turns=run.open_turns if run.is_resting else (*others, opened),
                turns=run.turns + 1,
                step_states=states,
                last_agent_error=None,
            )
            return _now(started, "running", "WORKING") if run.status == "running" else started
        case TurnCompleted() | TurnFailed() | TurnCancelled():
            exit_code = run.exit_code if event.exit_code is None else event.exit_code
            session = event.agent_session_id or run.agent_session_id
            ended = replace(run, open_turns=others, exit_code=exit_code, agent_session_id=session)
            if isinstance(event, TurnCancelled):
                return replace(ended, turns_cut=run.turns_cut + 1)
            if event.step is not None:
                return ended
            return replace(ended, fails_in_row=0 if isinstance(event, TurnCompleted) else run.fails_in_row + 1)
        case TurnRetrying():
            return _now(run, "running", "RETRYING") if run.status == "running" else run
        case _:
            assert_never(event)


def _step(run: Run, event: StepEvent, at_us: int) -> Run:
    others = tuple(it for it in run.open_steps if it.step != event.step)
    opens = not run.is_resting
    states = evolve_step(run.step_states, event, version=run.version + 1, at_us=at_us, opens=opens)
    run = replace(run, step_states=states)
    match event:
        case StepStarted():
            if not opens or event.step not in states:
                return run
            opened = OpenStep(step=event.step, attempt=states[event.step].attempt)
            hits = {name: hit for name, hit in run.step_hits.items() if name != event.step}
            return replace(run, open_steps=(*others, opened), step_hits=hits)
        case StepCompleted():
            return replace(run, open_steps=others, fails_in_row=0)
        case StepFailed():
            return replace(run, open_steps=others, fails_in_row=run.fails_in_row + 1)
        case StepSkipped() | StepCancelled() | StepReset():
            return replace(run, open_steps=others)
        case StepMarkedForRerun():
            return run
        case _:
            assert_never(event)


def _unit(run: Run, event: UnitsPlanned | UnitEvent, at_us: int) -> Run:
    if isinstance(event, UnitsPlanned):
        return replace(run, units_total=event.total, unit_name=event.unit_name or run.unit_name)
    run = replace(run, units=evolve_units(run.units, event, at_us=at_us, opens=not run.is_resting))
    if run.status == "running" and isinstance(event, UnitStarted | UnitAction):
        return _now(run, "running", action_code(event.action or "", event.attempt))
    return run


def _approval(run: Run, event: ApprovalEvent, at_us: int) -> Run:
    approvals = evolve_approvals(run.approvals, event, at_us=at_us, opens=not run.is_resting)
    if isinstance(event, ApprovalRequested):
        return replace(run, approvals=approvals, approvals_made=run.approvals_made + 1)
    answered = run.waiting_on == f"approval:{event.approval_id}"
    return replace(run, approvals=approvals, waiting_on=None if answered else run.waiting_on)

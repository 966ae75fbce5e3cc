"""What made an event: the id of the event that its writer answered, told from what is open in the run.

A cause is the nearest event without which this one would not have been written: of a turn's events the turn's start,
of a stop the limit that was passed, of a claim the order. What a person does unasked has none. It is told when the
event is decided and stored with it; nothing is ever decided by it.
"""

from typing import TypeVar, get_args

import msgspec
from msgspec.structs import replace

from runfold.events import (
    Activity,
    ApprovalAnswered,
    ApprovalGranted,
    ApprovalRequested,
    ArtifactStored,
    CancelRequested,
    ClaimLost,
    ClaimReleased,
    CommandRefused,
    ContextSet,
    Event,
    EventRedacted,
    LabelChanged,
    LateEventRejected,
    LimitExceeded,
    LimitWarned,
    NoteAdded,
    PauseRequested,
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
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepMarkedForRerun,
    StepReset,
    StepSkipped,
    StepStarted,
    SubprocessOutput,
    TitleChanged,
    ToolCalled,
    ToolReturned,
    TurnCancelled,
    TurnEnded,
    TurnEvent,
    TurnStarted,
    UnitEvent,
    UnitsPlanned,
    Unknown,
    Usage,
)

_Key = TypeVar("_Key", int, str)

OPEN_MAX = 200  # Calls and questions that are never answered must not make what is remembered grow for ever.


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of the events that later ones may answer."""

    called: str | None = None
    """What asked for a driver: the order, or what set the run going again."""
    claim: str | None = None
    going: str | None = None
    """The last event that let the driver go on."""
    request: str | None = None
    """What asks the run to pause, to stop or to end, until it does."""
    resume: str | None = None
    turns: dict[int, str] = {}
    steps: dict[str, str] = {}
    tools: dict[str, str] = {}
    approvals: dict[str, str] = {}
    turns_of_steps: dict[str, str] = {}


NOTHING = Causes()
WORK: frozenset[type] = frozenset(
    (*get_args(Activity), *get_args(Usage), *get_args(UnitEvent), UnitsPlanned, ContextSet, ArtifactStored,
     SubprocessOutput, Unknown)
) - {ToolCalled, ToolReturned}  # fmt: skip
"""The bulk of every log: nothing later answers them, and what made them is the turn or step that is open."""


def cause_of(
    causes: Causes, event: Event | Unknown | None, previous: str | None = None, *, unasked: bool
) -> str | None:
    """The id of what made the event, or None.

    `previous`: the last event of the same append that this one may follow from; `unasked`: a person's own first word.
    """
    if type(event) in WORK and event is not None:
        return _of_work(causes, event, unasked=unasked)
    if isinstance(event, ApprovalAnswered):
        return causes.approvals.get(event.approval_id)
    if isinstance(event, TurnEvent):
        return _of_turn(causes, event)
    if isinstance(event, StepEvent):
        return _of_step(causes, event, previous, unasked=unasked)
    match event:
        case (
            None | RunQueued() | LabelChanged() | TitleChanged() | NoteAdded() | CommandRefused() | LateEventRejected()
            | RunArchived() | EventRedacted()
        ):  # fmt: skip
            return None
        case ToolReturned() if event.call_id in causes.tools:
            return causes.tools[event.call_id]
        case _:
            return _of_run(causes, event, previous, unasked=unasked)


def _of_run(causes: Causes, event: Event | Unknown, previous: str | None, *, unasked: bool) -> str | None:
    match event:
        case RunClaimed():
            return causes.called
        case RunStarted():
            return causes.claim or causes.called
        case ClaimReleased() | ClaimLost():
            return previous or causes.claim
        case RunRequeued() | PauseRequested() | CancelRequested() | ResumeRequested():
            return previous
        case RunResumed():
            return previous or causes.resume
        case RunPaused() | RunCancelled() | RunStopped():
            return causes.request or previous or (None if unasked else causes.going)
        case LimitExceeded() | LimitWarned():
            # Where no event broke it, time did.
            return previous or causes.going
        case RunCompleted() | RunFailed():
            return previous or (None if unasked else causes.going)
        case ApprovalRequested():
            return causes.request or _of_work(causes, event, unasked=unasked)
        case _:
            return _of_work(causes, event, unasked=unasked)


def _of_turn(causes: Causes, event: TurnEvent) -> str | None:
    started = causes.turns.get(event.turn)
    match event:
        case TurnStarted():
            return causes.steps.get(event.step, causes.going) if event.step is not None else causes.going
        case TurnCancelled():
            return causes.request or started
        case _:
            return started or causes.going


def _of_step(
    causes: Causes,
    event: StepEvent,
    previous: str | None,
    *,
    unasked: bool,
) -> str | None:
    opened = causes.steps.get(event.step)
    match event:
        case StepCancelled():
            return causes.request or opened
        case StepMarkedForRerun() | StepReset():
            return previous or (None if unasked else causes.going)
        case StepStarted():
            return None if unasked else causes.going
        case _:
            return opened or (None if unasked else causes.going)


def _of_work(causes: Causes, event: Event | Unknown, *, unasked: bool) -> str | None:
    """Of what happens inside a run: the turn that it happened in, else the step, where there is no doubt which."""
    step: object = getattr(event, "step", None)
    if isinstance(step, str):
        return causes.turns_of_steps.get(step) or causes.steps.get(step)
    return cause_of_work(causes, unasked=unasked)


def cause_of_work(causes: Causes, *, unasked: bool) -> str | None:
    """Of work that names no step: the one turn that is open, else the one step, else what let the driver go on."""
    for opened in (causes.turns, causes.steps):
        if len(opened) == 1:
            return next(iter(opened.values()))
        if opened:
            return None
    return None if unasked else causes.going


def follows_from(event: Event | Unknown | None) -> bool:
    """Whether what comes later in the same append may follow from this event: what only closes makes nothing."""
    if type(event) in WORK:
        return True
    match event:
        case LimitWarned() | ToolReturned() | StepCancelled() | TurnCancelled() | ClaimReleased():
            return False
        case LimitExceeded():
            return event.on_exceed != "warn"
        case StepMarkedForRerun() | StepReset():
            # All that a change takes with it follows from the change, not each from the one before.
            return event.because_of is None
        case _:
            return True


def remember(causes: Causes, event: Event | Unknown | None, identity: str) -> Causes:
    """What later events may answer, after this one."""
    if type(event) in WORK:
        return causes
    match event:
        case ToolCalled():
            return replace(causes, tools=_with(causes.tools, event.call_id, identity))
        case ToolReturned():
            return replace(causes, tools=_without(causes.tools, event.call_id)) if causes.tools else causes
        case RunQueued() | RunRequeued() | RunResumed():
            return replace(causes, called=identity, going=identity, request=None, resume=None)
        case RunClaimed():
            return replace(causes, claim=identity)
        case RunStarted() | StepSkipped():
            return replace(causes, going=identity)
        case ResumeRequested():
            return replace(causes, resume=identity)
        case PauseRequested() | CancelRequested():
            return replace(causes, request=identity)
        case LimitExceeded():
            return _limited(causes, event, identity)
        case RunPaused():
            return replace(causes, request=None)
        case _ if isinstance(event, RunEnded):
            return Causes(going=identity, claim=causes.claim)
        case _ if isinstance(event, TurnStarted | TurnEnded):
            return _turned(causes, event, identity)
        case StepStarted() | StepCompleted() | StepFailed() | StepCancelled():
            return _stepped(causes, event, identity)
        case ApprovalRequested():
            asked = _with(causes.approvals, event.approval_id, identity)
            return replace(causes, approvals=asked, request=identity)
        case _ if isinstance(event, ApprovalAnswered):
            return _answered(causes, event, identity)
        case _:
            return causes


def _limited(causes: Causes, event: LimitExceeded, identity: str) -> Causes:
    if event.on_exceed == "warn":
        return causes
    if event.scope.startswith("step:"):
        return replace(causes, steps={**causes.steps, event.scope.removeprefix("step:"): identity})
    return replace(causes, request=identity)


def _turned(causes: Causes, event: TurnStarted | TurnEnded, identity: str) -> Causes:
    if isinstance(event, TurnStarted):
        of_steps = causes.turns_of_steps
        if event.step is not None:
            of_steps = {**of_steps, event.step: identity}
        return replace(causes, turns={**causes.turns, event.turn: identity}, turns_of_steps=of_steps)
    ended = replace(causes, turns=_without(causes.turns, event.turn))
    if event.step is None:
        return replace(ended, going=identity)
    steps = {**causes.steps, event.step: identity} if event.step in causes.steps else causes.steps
    return replace(ended, steps=steps, turns_of_steps=_without(causes.turns_of_steps, event.step))


def _stepped(causes: Causes, event: StepStarted | StepCompleted | StepFailed | StepCancelled, identity: str) -> Causes:
    if isinstance(event, StepStarted):
        return replace(causes, steps={**causes.steps, event.step: identity})
    return replace(causes, steps=_without(causes.steps, event.step), going=identity)


def _answered(causes: Causes, event: ApprovalAnswered, identity: str) -> Causes:
    asked = causes.approvals.get(event.approval_id)
    request = causes.request
    if isinstance(event, ApprovalGranted):
        request = None if request == asked else request
    elif request in (None, asked):
        # The no stops the run; of a run that ends for another reason the question only closes.
        request = identity
    return replace(causes, approvals=_without(causes.approvals, event.approval_id), request=request)


def _with(known: dict[str, str], name: str, identity: str) -> dict[str, str]:
    return known if len(known) >= OPEN_MAX and name not in known else {**known, name: identity}


def _without(known: dict[_Key, str], name: _Key) -> dict[_Key, str]:
    return {key: value for key, value in known.items() if key != name} if name in known else known

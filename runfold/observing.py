"""Who may say what about a run: a worker with its claim, a reporter, or the driven program itself."""

from collections.abc import Sequence
from typing import get_args

from runfold.amounts import check_amounts, check_totals
from runfold.closing import describe_hit
from runfold.counting import COUNTS
from runfold.errors import InvalidEvent, NotAllowed
from runfold.events import (
    EVENT_CLASSES,
    EVENT_TYPES,
    ContextSet,
    Event,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepMarkedForRerun,
    StepReset,
    StepSkipped,
    StepStarted,
    TokenUsage,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnRetrying,
    TurnStarted,
    UnitStarted,
    Unknown,
    event_type,
)
from runfold.evolve import CONTEXT_KEYS_MAX, evolve
from runfold.limits import how_to_go_on
from runfold.state import Run
from runfold.steps import check_step, check_step_event, follow

_LOOKED_INTO: frozenset[type] = frozenset(
    {*get_args(StepEvent), ContextSet, TurnStarted, TurnCompleted, TurnFailed, TurnCancelled, TurnRetrying}
)
OPEN_TURNS_MAX = 64  # What ends a run closes them all in one append.

CHILD_TYPES: frozenset[str] = frozenset(
    name
    for name, kind in EVENT_CLASSES.items()
    if kind in ("activity", "usage") or name.startswith(("unit_", "units_", "step_"))
) | {"artifact_stored", "context_set"}
"""What a driven program may say of its own run."""

WORKER_TYPES = CHILD_TYPES | {"subprocess_output", "telemetry_rejected", "turn_retrying"}
CLAIMLESS_TYPES = CHILD_TYPES | {"note_added"}
REPORTER_TYPES = CLAIMLESS_TYPES | {
    "subprocess_output",
    "turn_started",
    "turn_completed",
    "turn_failed",
    "turn_cancelled",
    "turn_retrying",
}


def _bulk_of(allowed: frozenset[str]) -> frozenset[type]:
    """Of these types those that may be said whatever the run's state is, and change nothing that others depend on."""
    return frozenset(EVENT_TYPES[name] for name in allowed) & (COUNTS.keys() - {TokenUsage})


_BULK = {allowed: _bulk_of(allowed) for allowed in (WORKER_TYPES, CLAIMLESS_TYPES, REPORTER_TYPES)}


def observe(
    run: Run, events: Sequence[Event | Unknown], *, by_worker: bool, now_us: int
) -> tuple[Event | Unknown, ...]:
    """The events as they are, when whoever sends them may send every one of them. Raises NotAllowed, InvalidEvent."""
    if by_worker:
        allowed, whose = WORKER_TYPES, "a worker"
    elif run.is_driven:
        allowed, whose = CLAIMLESS_TYPES, "a driven program"
    else:
        allowed, whose = REPORTER_TYPES, "a reporter"
    if _BULK[allowed].issuperset(map(type, events)):
        for event in events:
            check_amounts(event)
        return tuple(events)
    result: list[Event | Unknown] = []
    for number, event in enumerate(events, 1):
        _check_type(run, event, allowed, whose)
        check_amounts(event)
        if not by_worker:
            _check_start(run, event)
        _check_inside(run, event)
        following = follow(run, event, now_us) if isinstance(event, StepEvent) else ()
        result += (event, *following)
        is_usage = isinstance(event, TokenUsage)
        if number == len(events) and not is_usage:
            break
        # Later events of the same report are judged after the earlier ones.
        run = evolve(run, event, at_us=now_us)
        for each in following:
            run = evolve(run, each, at_us=now_us)
        if is_usage:
            check_totals(run)
    return tuple(result)


def _check_type(run: Run, event: Event | Unknown, allowed: frozenset[str], whose: str) -> None:
    name = event_type(event)
    if isinstance(event, Unknown):
        if name in EVENT_TYPES:
            raise InvalidEvent(f"`{name}` is a known type and was not decoded as one", run_id=run.run_id)
        return
    if name not in allowed:
        raise NotAllowed(
            f"`{name}` is not {whose}'s to say about run `{run.run_id}`",
            hint="a run's end, pause and approvals are commands: see `runfold --help`",
            run_id=run.run_id,
        )


def _check_start(run: Run, event: Event | Unknown) -> None:
    starts = isinstance(event, StepStarted | UnitStarted | TurnStarted)
    # A limit lets what is at work end, and nothing new begin; a pause that was wished for waits for the reporter.
    is_at_limit = run.hit is not None and run.status in ("pausing", "stopping")
    if starts and (is_at_limit or run.status in ("queued", "paused", "stopped")):
        why = f" ({describe_hit(run.hit)})" if run.hit else f" ({run.message})" if run.stop_condition else ""
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status}{why}: `{event_type(event)}` has to wait",
            hint=how_to_go_on(run),
            run_id=run.run_id,
        )


def _check_inside(run: Run, event: Event | Unknown) -> None:
    if type(event) not in _LOOKED_INTO:
        return
    match event:
        case (
            StepStarted() | StepCompleted() | StepFailed() | StepSkipped() | StepCancelled() | StepMarkedForRerun()
            | StepReset()
        ):  # fmt: skip
            check_step_event(run, event)
        case ContextSet():
            if event.key not in run.context and len(run.context) >= CONTEXT_KEYS_MAX:
                raise NotAllowed(
                    f"run `{run.run_id}` keeps {CONTEXT_KEYS_MAX} context keys, no room for `{event.key[:80]}`",
                    hint="set a key that is there, or store an artifact",
                    run_id=run.run_id,
                )
        case TurnStarted():
            check_step(run, event.step)
            check_no_turn(run, event.step)
        case TurnCompleted() | TurnFailed() | TurnCancelled():
            check_turn(run, event.turn)
        case TurnRetrying():
            check_step(run, event.step)
        case _:
            pass


def check_no_turn(run: Run, step: str | None = None) -> None:
    """Turns come one after the other, of the run or of each step. Raises NotAllowed."""
    for it in run.open_turns:
        if step is None or it.step is None or it.step == step:
            raise NotAllowed(
                f"turn {it.turn} of run `{run.run_id}` is still open", hint="end it first", run_id=run.run_id
            )
    if len(run.open_turns) >= OPEN_TURNS_MAX:
        raise NotAllowed(f"run `{run.run_id}` has {OPEN_TURNS_MAX} open turns", hint="end some", run_id=run.run_id)


def check_turn(run: Run, turn: int) -> None:
    if not run.open_turns:
        raise NotAllowed(f"run `{run.run_id}` has no open turn", hint="start one first", run_id=run.run_id)
    if all(it.turn != turn for it in run.open_turns):
        numbers = ", ".join(str(it.turn) for it in run.open_turns[:10])
        raise NotAllowed(
            f"the open turn of run `{run.run_id}` is {numbers}, not {turn}",
            hint=f"end turn {numbers}",
            run_id=run.run_id,
        )

"""The rules of steps: what may start, end, be skipped, rerun or reset, and what follows for the steps after it.

One invariant holds them together: whatever a completed step rests on is completed or skipped, and has not changed
since the step started.
"""

from collections.abc import Iterable
from typing import Any, NoReturn, TypeAlias, assert_never

from runfold.commands import CompleteStep, FailStep, MarkRerun, ResetAll, ResetStep, SkipStep, StartStep
from runfold.ending import check_claim
from runfold.errors import NotAllowed
from runfold.events import (
    Event,
    RunResumed,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepMarkedForRerun,
    StepReset,
    StepSkipped,
    StepSpec,
    StepStarted,
)
from runfold.graph import downstream, find_step, upstream
from runfold.limits import how_to_go_on
from runfold.state import Run
from runfold.step_states import PENDING, STEPS_KNOWN_MAX, StepState

OPEN_STEPS_MAX = 200  # What ends a run closes them all in one append, which holds at most 500 events.
CASCADE_EVENTS_MAX = 300  # An append holds at most 500 events; the last of these names all the others.
MET = frozenset({"completed", "skipped"})
STARTABLE = frozenset({"pending", "failed", "needs_rerun", "cancelled"})

StepCommand: TypeAlias = StartStep | CompleteStep | FailStep | SkipStep | MarkRerun | ResetStep | ResetAll


def decide_step(run: Run, command: StepCommand, now_us: int) -> tuple[Event, ...]:
    """The events of a command about steps, consequences included. Raises NotAllowed, Fenced."""
    if isinstance(command, ResetAll):
        return _reset_all(run, command)
    _check_hand(run, command)
    state = state_of(run, command.step)
    match command:
        case StartStep():
            _check_may_start(run, command.step)
            event: StepEvent = StepStarted(
                step=command.step,
                skill=command.skill or _skill(run, command.step),
                attempt=state.attempt + 1,
                input=command.input,
                metadata=command.metadata,
            )
        case CompleteStep():
            event = StepCompleted(
                step=command.step,
                attempt=max(1, state.attempt),
                output=command.output,
                cache_hit=command.cache_hit,
                cache_key=command.cache_key,
                duration_ms=_ran_ms(state, now_us),
                metadata=command.metadata,
            )
        case FailStep():
            event = StepFailed(
                step=command.step,
                attempt=max(1, state.attempt),
                error=command.error,
                output=command.output,
                duration_ms=_ran_ms(state, now_us),
                metadata=command.metadata,
            )
        case SkipStep():
            event = StepSkipped(step=command.step, reason=command.reason)
        case MarkRerun():
            if state.status == "needs_rerun":
                return ()
            event = StepMarkedForRerun(step=command.step, reason=command.reason)
        case ResetStep():
            if state.status == "pending":
                return ()
            event = StepReset(step=command.step, reason=command.reason)
        case _:
            assert_never(command)
    check_step_event(run, event)
    return (event, *follow(run, event, now_us), *_goes_on(run, event))


def check_step_event(run: Run, event: StepEvent) -> None:
    """Whether a step may do this now, whoever says so. Raises NotAllowed."""
    check_step(run, event.step)
    state = state_of(run, event.step)
    match event:
        case StepStarted():
            _check_start(run, event.step, state)
        case StepCompleted() | StepFailed() | StepCancelled():
            if state.status != "running":
                _refuse(run, event.step, state, "end", hint=f"`runfold step start {run.run_id} {event.step}` first")
        case StepSkipped():
            if state.status not in STARTABLE:
                _refuse(run, event.step, state, "be skipped", hint="only a step that is still to run can be")
        case StepMarkedForRerun():
            if state.status == "pending":
                _refuse(run, event.step, state, "be rerun", hint=f"`runfold step start {run.run_id} {event.step}`")
        case StepReset():
            if state.status == "running":
                _refuse(run, event.step, state, "be reset", hint="complete or fail it first")
        case _:
            assert_never(event)


def follow(run: Run, event: StepEvent, now_us: int) -> tuple[Event, ...]:
    """What the event does to other steps, or to a step whose ground moved while it ran."""
    match event:
        case StepMarkedForRerun() | StepReset():
            changed = {event.step, *event.also}
            reached = [name for name in _after(run, changed) if state_of(run, name).status == "completed"]
            return _marks(reached, because_of=event.step)
        case StepCompleted():
            if cause := moved_ground(run, event.step):
                return (StepMarkedForRerun(step=event.step, because_of=cause, reason="it changed while this ran"),)
            return ()
        case StepStarted() | StepFailed() | StepSkipped() | StepCancelled():
            return ()
        case _:
            assert_never(event)


def moved_ground(run: Run, step: str) -> str | None:
    """The step that was marked or reset after this one started and that it rests on, or is itself."""
    began = state_of(run, step).started_version
    if not began:
        return None
    before = upstream(run.steps, step)
    for name, state in run.step_states.items():
        if state.changed_version > began and (name == step or name in before):
            return name
    return None


def ready(run: Run) -> tuple[StepSpec, ...]:
    """The steps that can start now, in the graph's own order; for a runner, which skips those without a command."""
    states = run.step_states
    met = {name for name, state in states.items() if state.status in MET}
    return tuple(
        spec
        for spec in run.steps
        if states.get(spec.id, PENDING).status in ("pending", "needs_rerun") and all(need in met for need in spec.needs)
    )


def unmet(run: Run, step: str) -> tuple[str, ...]:
    """The needs of a step that are neither completed nor skipped."""
    spec = find_step(run.steps, step)
    return tuple(need for need in spec.needs if state_of(run, need).status not in MET) if spec else ()


def state_of(run: Run, step: str) -> StepState:
    return run.step_states.get(step, PENDING)


def check_step(run: Run, step: str | None) -> None:
    """A run with a graph knows its steps. Raises NotAllowed."""
    if step is None or step in run.step_states:
        return
    if not run.steps:
        if len(run.step_states) >= STEPS_KNOWN_MAX:
            raise NotAllowed(
                f"run `{run.run_id}` has {STEPS_KNOWN_MAX} steps, no room for `{step}`",
                hint="split the work into several runs",
                run_id=run.run_id,
            )
        return
    if find_step(run.steps, step) is None:
        known = ", ".join(spec.id for spec in run.steps[:10])
        raise NotAllowed(f"run `{run.run_id}` has no step `{step}`", hint=f"its steps are: {known}", run_id=run.run_id)


def _check_start(run: Run, step: str, state: StepState) -> None:
    if state.status == "completed":
        _refuse(run, step, state, "start", hint=f"`runfold step rerun {run.run_id} {step}` first, if it must run again")
    if state.status not in STARTABLE:
        _refuse(run, step, state, "start", hint="it has to end first" if state.status == "running" else
                f"`runfold step reset {run.run_id} {step}` first")  # fmt: skip
    if missing := unmet(run, step):
        stand = ", ".join(f"`{need}` ({state_of(run, need).status})" for need in missing[:10])
        _refuse(run, step, state, f"start: it needs {stand}", hint=f"complete {', '.join(missing[:10])} first")
    if len(run.open_steps) >= OPEN_STEPS_MAX:
        raise NotAllowed(
            f"run `{run.run_id}` has {OPEN_STEPS_MAX} open steps", hint="end some first", run_id=run.run_id
        )


def _check_may_start(run: Run, step: str) -> None:
    waited_for = run.status == "paused" and run.waiting_on == f"step:{step}"
    if run.status != "running" and not waited_for:
        starts = "start it first" if run.status == "queued" else how_to_go_on(run)
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status}: step `{step}` cannot start", hint=starts, run_id=run.run_id
        )


def _check_hand(run: Run, command: Any) -> None:
    """A worker speaks with its claim; what a worker runs, a person does not start or end beside it."""
    claim = getattr(command, "claim", None)
    if claim is not None:
        check_claim(run, claim)
        return
    spec = find_step(run.steps, command.step)
    by_hand = not isinstance(command, StartStep | CompleteStep | FailStep)
    if run.is_driven and spec is not None and spec.command and not by_hand:
        raise NotAllowed(
            f"step `{command.step}` of run `{run.run_id}` has a command, which its worker runs",
            hint=f"`runfold step rerun {run.run_id} {command.step}` has it run again",
            run_id=run.run_id,
        )


def _goes_on(run: Run, event: StepEvent) -> tuple[Event, ...]:
    """The end of the step that a paused run waits for resumes it."""
    over = isinstance(event, StepCompleted | StepFailed | StepSkipped)
    if over and run.status == "paused" and run.waiting_on == f"step:{event.step}":
        return (RunResumed(reason=f"step {event.step} is done"),)
    return ()


def _reset_all(run: Run, command: ResetAll) -> tuple[Event, ...]:
    if run.open_steps:
        names = ", ".join(f"`{it.step}`" for it in run.open_steps[:10])
        raise NotAllowed(
            f"run `{run.run_id}` has running steps and cannot be reset: {names}",
            hint="complete or fail them first",
            run_id=run.run_id,
        )
    names_done = [name for name, state in run.step_states.items() if state.status != "pending"]
    each, rest = names_done[: CASCADE_EVENTS_MAX - 1], tuple(names_done[CASCADE_EVENTS_MAX - 1 :])
    resets: list[Event] = [StepReset(step=name, reason=command.reason) for name in each]
    if rest:
        resets.append(StepReset(step=rest[0], reason=command.reason, also=rest[1:]))
    return tuple(resets)


def _after(run: Run, changed: set[str]) -> Iterable[str]:
    if len(changed) == 1:
        return downstream(run.steps, next(iter(changed)))
    reached = {name for step in changed for name in downstream(run.steps, step)}
    return [spec.id for spec in run.steps if spec.id in reached]


def _marks(names: list[str], *, because_of: str) -> tuple[Event, ...]:
    each, rest = names[: CASCADE_EVENTS_MAX - 1], tuple(names[CASCADE_EVENTS_MAX - 1 :])
    marks: list[Event] = [StepMarkedForRerun(step=name, because_of=because_of) for name in each]
    if rest:
        marks.append(StepMarkedForRerun(step=rest[0], because_of=because_of, also=rest[1:]))
    return tuple(marks)


def _skill(run: Run, step: str) -> str | None:
    spec = find_step(run.steps, step)
    return spec.skill if spec else None


def _ran_ms(state: StepState, now_us: int) -> int | None:
    return None if state.started_at_us is None else max(0, now_us - state.started_at_us) // 1_000


def _refuse(run: Run, step: str, state: StepState, what: str, *, hint: str) -> NoReturn:
    raise NotAllowed(
        f"step `{step}` of run `{run.run_id}` is {state.status} and cannot {what}", hint=hint, run_id=run.run_id
    )

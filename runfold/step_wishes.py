"""What a person or a program may wish of a step, and what came of it: the words that HTTP and the terminal share."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias, assert_never

import msgspec

from runfold.commands import CompleteStep, FailStep, MarkRerun, ResetAll, ResetStep, SkipStep, StartStep
from runfold.errors import BadRequest
from runfold.events import Event, Failure, Json, StepEvent, StepMarkedForRerun, StepReset, Unknown
from runfold.state import Run
from runfold.step_states import StepStatus
from runfold.steps import state_of

StepAction: TypeAlias = Literal["start", "complete", "fail", "skip", "rerun", "reset"]
Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=1_000)]


class StepWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` is of start, `output` of complete and fail, `error` of fail, `reason` of the others and of fail."""

    action: StepAction
    reason: Reason = ""
    input: Json = None
    output: Json = None
    error: Failure | None = None
    metadata: dict[str, Json] = {}


class StepsWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of all steps at once."""

    action: Literal["reset"]
    reason: Reason = ""


class StepChange(msgspec.Struct, frozen=True, kw_only=True):
    """Where a step stands now; `because_of` is the step whose change caused it."""

    step: str
    status: StepStatus
    attempt: int
    reason: str
    because_of: str | None


class StepAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every step that changed, the one that was asked about first; empty where it was so already."""

    run_id: str
    status: str | None
    reason_code: str
    version: int
    position: int
    changed: tuple[StepChange, ...]


def step_command(step: str, wish: StepWish) -> StartStep | CompleteStep | FailStep | SkipStep | MarkRerun | ResetStep:
    """Raises BadRequest for what does not belong to the action: nothing that was said is dropped in silence."""
    _check_fits(wish)
    match wish.action:
        case "start":
            return StartStep(step=step, input=wish.input, metadata=wish.metadata)
        case "complete":
            return CompleteStep(step=step, output=wish.output, metadata=wish.metadata)
        case "fail":
            error = wish.error or Failure(code="STEP_FAILED", message=wish.reason)
            return FailStep(step=step, error=error, output=wish.output, metadata=wish.metadata)
        case "skip":
            return SkipStep(step=step, reason=wish.reason)
        case "rerun":
            return MarkRerun(step=step, reason=wish.reason)
        case "reset":
            return ResetStep(step=step, reason=wish.reason)
        case _:
            assert_never(wish.action)


def steps_command(wish: StepsWish) -> ResetAll:
    return ResetAll(reason=wish.reason)


def step_answer(run: Run, events: Sequence[Event | Unknown | None], *, position: int) -> StepAnswer:
    """The run right after the events of the wish."""
    names: dict[str, None] = {}
    for event in events:
        if isinstance(event, StepEvent):
            names[event.step] = None
            if isinstance(event, StepMarkedForRerun | StepReset):
                names.update(dict.fromkeys(event.also))
    return StepAnswer(
        run_id=run.run_id,
        status=run.status,
        reason_code=run.reason_code,
        version=run.version,
        position=position,
        changed=tuple(_change(run, name) for name in names),
    )


def _change(run: Run, step: str) -> StepChange:
    state = state_of(run, step)
    return StepChange(
        step=step, status=state.status, attempt=state.attempt, reason=state.reason, because_of=state.because_of
    )


_BELONGS: dict[str, frozenset[str]] = {
    "start": frozenset({"input", "metadata"}),
    "complete": frozenset({"output", "metadata"}),
    "fail": frozenset({"error", "output", "metadata", "reason"}),
    "skip": frozenset({"reason"}),
    "rerun": frozenset({"reason"}),
    "reset": frozenset({"reason"}),
}


def _check_fits(wish: StepWish) -> None:
    said = {"input": wish.input, "output": wish.output, "error": wish.error, "metadata": wish.metadata or None}
    for name, value in said.items():
        if value is not None and name not in _BELONGS[wish.action]:
            raise BadRequest(
                f"`{name}` does not belong to `{wish.action}`",
                hint=f"it takes {', '.join(sorted(_BELONGS[wish.action]))}",
            )

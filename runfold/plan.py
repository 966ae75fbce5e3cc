"""What a retry from a step would reuse, run again and roughly cost: a pure reading of the run that is over."""

import hashlib
from typing import Literal

import msgspec

from runfold.errors import BadRequest
from runfold.events import StepSpec
from runfold.graph import downstream, find_step
from runfold.state import Run
from runfold.step_states import PENDING


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the new run and why it is reused or run again; `cost_micros` is what it took last time."""

    step: str
    action: Literal["reuse", "rerun"]
    why: str
    because_of: str | None = None
    cost_micros: int | None = None
    duration_ms: int | None = None


class RetryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`cost_micros` adds up what the steps to run again took last time; `unknown` names those nobody knows it of."""

    run_id: str
    from_step: str | None
    steps: tuple[PlannedStep, ...]
    cost_micros: int
    duration_ms: int
    unknown: tuple[str, ...]

    @property
    def reused(self) -> tuple[str, ...]:
        return tuple(it.step for it in self.steps if it.action == "reuse")

    @property
    def rerun(self) -> tuple[str, ...]:
        return tuple(it.step for it in self.steps if it.action == "rerun")


def plan_retry(run: Run, from_step: str | None = None) -> RetryPlan:
    """Without a step everything runs again. Raises BadRequest where the run has no such step."""
    if from_step is not None and find_step(run.steps, from_step) is None:
        known = ", ".join(spec.id for spec in run.steps[:10]) or "none"
        raise BadRequest(
            f"run `{run.run_id}` has no step `{from_step[:80]}`", hint=f"its steps are: {known}", run_id=run.run_id
        )
    after = frozenset(downstream(run.steps, from_step)) if from_step is not None else frozenset[str]()
    planned: dict[str, PlannedStep] = {}
    for spec in _in_order(run.steps):
        planned[spec.id] = _plan(run, spec, from_step, after, planned)
    steps = tuple(planned[spec.id] for spec in run.steps)
    again = [it for it in steps if it.action == "rerun"]
    return RetryPlan(
        run_id=run.run_id,
        from_step=from_step,
        steps=steps,
        cost_micros=sum(it.cost_micros or 0 for it in again) if steps else run.cost_micros or 0,
        duration_ms=sum(it.duration_ms or 0 for it in again),
        unknown=tuple(it.step for it in again if it.cost_micros is None),
    )


def _plan(
    run: Run, spec: StepSpec, from_step: str | None, after: frozenset[str], planned: dict[str, PlannedStep]
) -> PlannedStep:
    state = run.step_states.get(spec.id, PENDING)
    lost = next((need for need in spec.needs if planned[need].action == "rerun"), None)
    if from_step is None:
        why, because_of = "the whole run is tried again", None
    elif spec.id == from_step:
        why, because_of = "the retry starts here", None
    elif spec.id in after:
        why, because_of = f"it rests on {from_step}", from_step
    elif state.status not in ("completed", "skipped"):
        why, because_of = f"it was {state.status.replace('_', ' ')}", None
    elif lost is not None:
        why, because_of = f"it rests on {lost}", lost
    else:
        return PlannedStep(step=spec.id, action="reuse", why=f"it is {state.status} and nothing it rests on changes")
    return PlannedStep(
        step=spec.id,
        action="rerun",
        why=why,
        because_of=because_of,
        cost_micros=state.cost_micros,
        duration_ms=state.duration_ms,
    )


def _in_order(steps: tuple[StepSpec, ...]) -> list[StepSpec]:
    """Every step after what it needs; the graph was checked when the run was opened."""
    left = {spec.id: spec for spec in steps}
    ordered: dict[str, StepSpec] = {}
    while left:
        free = [spec for spec in left.values() if all(need in ordered or need not in left for need in spec.needs)]
        for spec in free or list(left.values()):
            ordered[spec.id] = left.pop(spec.id)
    return list(ordered.values())


def cache_key(command: tuple[str, ...], inputs: dict[str, str], needs: dict[str, str | None]) -> str:
    """The same command over the same inputs and the same outputs of its needs: digests by name, in any order."""
    content = msgspec.json.encode([list(command), inputs, needs], order="deterministic")
    return hashlib.sha256(content).hexdigest()

"""Which step may start now, what is asked before it, and what its end means for the run; pure, from the run's fold."""

import hashlib
from typing import Any

import msgspec

from runfold.commands import (
    RequestApproval,
)
from runfold.events import (
    Failure,
    StepSpec,
)
from runfold.plan import cache_key
from runfold.state import Run
from runfold.step_states import StepState
from runfold.steps import MET, ready, state_of

BACKOFF_SECONDS_MAX = 3_600.0


def startable(run: Run, *, now_us: int) -> tuple[StepSpec, ...]:
    """What may start now: what is ready, what was cut short before, and what failed and has an attempt left."""
    found = {spec.id for spec in ready(run)}
    for spec in run.steps:
        state = state_of(run, spec.id)
        is_due = is_retried(spec, state) and now_us >= _due_us(spec, state)
        if (state.status == "cancelled" or is_due) and all(state_of(run, need).status in MET for need in spec.needs):
            found.add(spec.id)
    return tuple(spec for spec in run.steps if spec.id in found)


def is_retried(spec: StepSpec, state: StepState) -> bool:
    return bool(spec.command) and state.status == "failed" and _failures(state) < spec.attempts_max


def question_of(run: Run, spec: StepSpec) -> RequestApproval | None:
    """What is asked before the step may start; None where nothing is, or where it was granted."""
    if spec.approval is None:
        return None
    # A step that was marked anew works on another ground, and is asked about again.
    name = f"{spec.id[:80]}.{state_of(run, spec.id).changed_version}"
    asked = run.approvals.get(name)
    if asked is not None and asked.status == "granted":
        return None
    return RequestApproval(approval_id=name, kind="step", summary=spec.approval)


def _failures(state: StepState) -> int:
    """How often it failed since it last succeeded."""
    count = 0
    for attempt in reversed(state.attempts):
        if attempt.status == "completed":
            break
        count += attempt.status == "failed"
    return count


def _due_us(spec: StepSpec, state: StepState) -> int:
    doubled = spec.backoff_seconds * 2.0 ** min(_failures(state) - 1, 20)
    return (state.ended_at_us or 0) + int(min(doubled, BACKOFF_SECONDS_MAX) * 1_000_000)


def code_of(state: StepState) -> str:
    return "TIMED_OUT" if state.error is not None and state.error.code == "TIMED_OUT" else "STEP_FAILED"


def run_error(spec: StepSpec, state: StepState) -> Failure:
    said = state.error or Failure()
    message = f"step {spec.id} failed in attempt {state.attempt}: {said.message or said.code}"
    return msgspec.structs.replace(said, code=code_of(state), message=message)


def key_of(run: Run, spec: StepSpec, given: dict[str, str]) -> str | None:
    """What the step makes its files from; None where it declares none, because then nothing could be put back."""
    if not spec.outputs:
        return None
    words = (*spec.command, "", spec.prompt or "", *spec.outputs)
    return cache_key(words, given, {need: _made_by(run, need) for need in spec.needs})


def _made_by(run: Run, need: str) -> str | None:
    """What a need has left behind, as one number; None where it left nothing."""
    state = state_of(run, need)
    made = state.metadata.get("made")
    if isinstance(made, str):
        return made
    output: Any = state.output
    if isinstance(output, dict) and "head" in output:
        return f"{run.run_id} {need} {state.attempt}"  # Only its beginning is known here: equal to nothing else.
    return None if output is None else digest_of(output)


def digest_of(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()

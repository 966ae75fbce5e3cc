"""Where every step of a run stands: the part of the fold that belongs to steps, bounded for each of them."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from runfold.events import (
    Failure,
    Json,
    StepCancelled,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepMarkedForRerun,
    StepReset,
    StepSkipped,
    StepStarted,
    TokenUsage,
)

StepStatus = Literal["pending", "running", "completed", "failed", "needs_rerun", "skipped", "cancelled"]

ATTEMPTS_KEPT_MAX = 10  # The log holds the others.
VALUE_BYTES_MAX = 1_024  # Of an input or output in the state; the event holds the whole.
METADATA_KEYS_MAX = 32
STEPS_KNOWN_MAX = 2_000  # A run without a graph learns its steps as they come.

_encode = msgspec.json.Encoder().encode


class StepAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try that is over."""

    attempt: int
    status: StepStatus
    started_at_us: int | None = None
    duration_ms: int | None = None
    cache_hit: bool = False
    input: Json = None
    output: Json = None
    error: Failure | None = None


class StepState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step now; `attempts` are the last ones that are over, the newest last."""

    status: StepStatus = "pending"
    attempt: int = 0
    attempts: tuple[StepAttempt, ...] = ()
    skill: str | None = None
    input: Json = None
    output: Json = None
    error: Failure | None = None
    cache_hit: bool = False
    cache_key: str | None = None
    metadata: dict[str, Json] = {}
    reason: str = ""
    because_of: str | None = None
    started_at_us: int | None = None
    ended_at_us: int | None = None
    duration_ms: int | None = None
    started_version: int = 0
    changed_version: int = 0
    """The run's version when it was last marked or reset: whoever started before rests on what it was."""
    turns: int = 0
    tokens: int = 0
    cost_micros: int | None = None


PENDING = StepState()
Steps: TypeAlias = dict[str, StepState]


def evolve_step(steps: Steps, event: StepEvent, *, version: int, at_us: int, opens: bool) -> Steps:
    """The steps after the event, the run's `version`th; `opens` is False in a run that rests."""
    match event:
        case StepStarted():
            state = steps.get(event.step, PENDING)
            return _with(steps, {event.step: _started(state, event, version, at_us)}) if opens else steps
        case StepCompleted() | StepFailed() | StepCancelled():
            ended = {event.step: _ended(steps.get(event.step, PENDING), event, at_us)}
            if isinstance(event, StepCompleted) and event.also:
                reused = replace(event, output=None, cache_key=None)
                ended |= {name: _ended(steps.get(name, PENDING), reused, at_us) for name in event.also}
            return _with(steps, ended)
        case StepSkipped():
            state = steps.get(event.step, PENDING)
            changes: dict[str, Any] = {"reason": event.reason, "because_of": None, "ended_at_us": at_us}
            return _with(steps, {event.step: replace(state, status="skipped", **changes)})
        case StepMarkedForRerun():
            why: dict[str, Any] = {
                "reason": event.reason, "because_of": event.because_of, "changed_version": version
            }  # fmt: skip
            marked: Steps = {}
            for name in (event.step, *event.also):
                state = steps.get(name, PENDING)
                status: StepStatus = "running" if state.status == "running" else "needs_rerun"
                marked[name] = replace(state, status=status, **why)
            return _with(steps, marked)
        case StepReset():
            return _with(steps, {name: _reset(steps.get(name, PENDING), event, version)
                                 for name in (event.step, *event.also)})  # fmt: skip
        case _:
            assert_never(event)


def use(steps: Steps, step: str, usage: TokenUsage) -> Steps:
    """The steps after tokens that were spent in one of them."""
    state = steps.get(step, PENDING)
    cost = state.cost_micros if usage.cost_micros is None else (state.cost_micros or 0) + usage.cost_micros
    tokens = state.tokens + usage.input_tokens + usage.output_tokens
    return _with(steps, {step: replace(state, tokens=tokens, cost_micros=cost)})


def count_turn(steps: Steps, step: str) -> Steps:
    state = steps.get(step, PENDING)
    return _with(steps, {step: replace(state, turns=state.turns + 1)})


def bounded(value: Json) -> Json:
    """The value itself where it is small, else its size and its beginning."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = _encode(value)
    if len(text) <= VALUE_BYTES_MAX:
        return value
    return {"bytes": len(text), "head": text[: VALUE_BYTES_MAX // 2].decode("utf-8", "ignore")}


def _with(steps: Steps, changed: Mapping[str, StepState]) -> Steps:
    known = {name: state for name, state in changed.items() if name in steps}
    new = [name for name in changed if name not in known]
    room = max(0, STEPS_KNOWN_MAX - len(steps))
    return {**steps, **known, **{name: changed[name] for name in new[:room]}}


def _started(state: StepState, event: StepStarted, version: int, at_us: int) -> StepState:
    return replace(
        state,
        status="running",
        attempt=max(event.attempt, state.attempt + 1),
        skill=event.skill or state.skill,
        input=bounded(event.input),
        output=None,
        error=None,
        cache_hit=False,
        cache_key=None,
        metadata=_gathered(state, event.metadata),
        reason="",
        because_of=None,
        started_at_us=at_us,
        ended_at_us=None,
        duration_ms=None,
        started_version=version,
    )


def _ended(state: StepState, event: StepCompleted | StepFailed | StepCancelled, at_us: int) -> StepState:
    changes: dict[str, Any] = {"ended_at_us": at_us}
    ran_ms = None if state.started_at_us is None else max(0, at_us - state.started_at_us) // 1_000
    match event:
        case StepCompleted():
            changes |= {"status": "completed", "output": bounded(event.output), "cache_hit": event.cache_hit,
                        "cache_key": event.cache_key, "metadata": _gathered(state, event.metadata)}  # fmt: skip
            changes["duration_ms"] = ran_ms if event.duration_ms is None else event.duration_ms
        case StepFailed():
            changes |= {"status": "failed", "output": bounded(event.output), "error": _short(event.error),
                        "metadata": _gathered(state, event.metadata)}  # fmt: skip
            changes["duration_ms"] = ran_ms if event.duration_ms is None else event.duration_ms
        case StepCancelled():
            changes |= {"status": "cancelled", "reason": event.reason, "duration_ms": ran_ms}
        case _:
            assert_never(event)
    state = replace(state, **changes)
    over = StepAttempt(
        attempt=state.attempt or event.attempt,
        status=state.status,
        started_at_us=state.started_at_us,
        duration_ms=state.duration_ms,
        cache_hit=state.cache_hit,
        input=state.input,
        output=state.output,
        error=state.error,
    )
    return replace(state, attempt=over.attempt, attempts=(*state.attempts, over)[-ATTEMPTS_KEPT_MAX:])


def _reset(state: StepState, event: StepReset, version: int) -> StepState:
    """As it was before it ran; what it has cost, and its attempts, are facts and stay."""
    return StepState(
        attempt=state.attempt,
        attempts=state.attempts,
        skill=state.skill,
        reason=event.reason,
        because_of=event.because_of,
        changed_version=version,
        turns=state.turns,
        tokens=state.tokens,
        cost_micros=state.cost_micros,
    )


def _gathered(state: StepState, metadata: Mapping[str, Json]) -> dict[str, Json]:
    """Metadata accumulates over the attempts, the last word of a key wins."""
    if not metadata:
        return state.metadata
    together = {**state.metadata, **{key: bounded(value) for key, value in metadata.items()}}
    return dict(list(together.items())[-METADATA_KEYS_MAX:])


def _short(error: Failure) -> Failure:
    return replace(error, message=error.message[:VALUE_BYTES_MAX], stack_trace=None)

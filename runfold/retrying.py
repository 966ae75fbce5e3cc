"""The order of a run that tries another one again, and what of it need not be done again; pure, from plan and log."""

import msgspec
from msgspec.structs import replace

from runfold.commands import Reused
from runfold.errors import NotAllowed
from runfold.estimates import Estimate, cost_estimated
from runfold.events import CostEstimated, Json, RunQueued, StepCompleted, StepSkipped
from runfold.plan import PlannedStep, RetryPlan
from runfold.report import usd
from runfold.snapshot import Expected, expected
from runfold.state import Run
from runfold.step_states import PENDING, bounded

REUSED_EVENTS_MAX = 300  # An append holds at most 500 events; the last of these names all the others.
OUTPUTS_BYTES_MAX = 256 * 1024  # An append holds at most 512 KiB; further outputs come as their beginning.

_encode = msgspec.json.Encoder().encode


class StepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`cost_usd` and `duration_ms` are what the step took last time; null where nobody knows."""

    step: str
    action: str
    why: str
    because_of: str | None
    cost_usd: float | None
    duration_ms: int | None


class RetryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`new_run_id` is null where only the plan was asked for; `unknown` are the steps whose cost nobody knows.

    `cost_usd` is what the steps took last time; `estimate` is what the new run is expected to cost.
    `by_hand` says what to type where this server would refuse the retry of what was started by hand.
    """

    new_run_id: str | None
    retry_of: str
    from_step: str | None
    reused: tuple[str, ...]
    rerun: tuple[str, ...]
    unknown: tuple[str, ...]
    cost_usd: float | None
    duration_ms: int
    steps: tuple[StepPlan, ...]
    estimate: Expected | None = None
    by_hand: str | None = None


def answer_of(
    plan: RetryPlan,
    new_run_id: str | None = None,
    *,
    estimated: CostEstimated | None = None,
    by_hand: str | None = None,
) -> RetryAnswer:
    return RetryAnswer(
        new_run_id=new_run_id,
        retry_of=plan.run_id,
        from_step=plan.from_step,
        reused=plan.reused,
        rerun=plan.rerun,
        unknown=plan.unknown,
        cost_usd=usd(plan.cost_micros),
        duration_ms=plan.duration_ms,
        steps=tuple(_step_plan(it) for it in plan.steps),
        estimate=expected(estimated),
        by_hand=by_hand,
    )


def estimate_of_retry(run: Run, plan: RetryPlan, whole: Estimate | None) -> CostEstimated | None:
    """What the new run will cost: as a first start of its workflow, `whole`, less what is reused.

    Never less than what the steps that run again took last time; None where nothing is known.
    """
    first = cost_estimated(whole)
    if first is None:
        if not plan.steps or plan.unknown:
            return None
        cost = plan.cost_micros
        return CostEstimated(low_micros=cost, high_micros=cost, basis="what its steps took last time")
    if not plan.reused:
        return first
    reused = sum(run.step_states.get(name, PENDING).cost_micros or 0 for name in plan.reused)
    return CostEstimated(
        low_micros=max(plan.cost_micros, first.low_micros - reused),
        high_micros=max(plan.cost_micros, first.high_micros - reused),
        basis=f"{first.basis}, less what is reused",
    )


def retry_order(order: RunQueued, run: Run, plan: RetryPlan, *, payload: Json = None) -> RunQueued:
    """The order of the new run. Raises NotAllowed while the old one may still change what is reused."""
    if not run.is_resting:
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status} and cannot be retried",
            hint=f"`runfold cancel {run.run_id}` first, or wait for its end",
            run_id=run.run_id,
        )
    if run.driver == "imported":
        raise NotAllowed(
            f"run `{run.run_id}` was imported and cannot be retried",
            hint="start it again where it ran",
            run_id=run.run_id,
        )
    return replace(
        order,
        payload=order.payload if payload is None else payload,
        # What was given on the way, as new limits and labels, holds for the new run too.
        limits=run.limits,
        labels=run.labels,
        retry_of=run.run_id,
        resumed_from=None,
        from_step=plan.from_step,
    )


def reused_steps(run: Run, plan: RetryPlan, completed: dict[str, StepCompleted]) -> tuple[Reused, ...]:
    """What opens the new run beside its order; `completed` are the whole last completions of its steps."""
    reused: list[Reused] = []
    room = OUTPUTS_BYTES_MAX
    for name in plan.reused:
        state = run.step_states.get(name, PENDING)
        if state.status == "skipped":
            reused.append(StepSkipped(step=name, reason=state.reason or f"skipped in {run.run_id}"))
            continue
        output = completed[name].output if name in completed else state.output
        room -= len(_encode(output))
        reused.append(
            StepCompleted(
                step=name,
                output=output if room >= 0 else bounded(output),
                cache_hit=True,
                cache_key=state.cache_key,
                duration_ms=0,
                metadata={**state.metadata, "reused_from": run.run_id},
            )
        )
    if len(reused) <= REUSED_EVENTS_MAX:
        return tuple(reused)
    first, rest = reused[: REUSED_EVENTS_MAX - 1], reused[REUSED_EVENTS_MAX - 1 :]
    also = tuple(it.step for it in rest[1:])
    last = StepCompleted(
        step=rest[0].step, cache_hit=True, duration_ms=0, metadata={"reused_from": run.run_id}, also=also
    )
    return (*first, last)


def _step_plan(planned: PlannedStep) -> StepPlan:
    return StepPlan(
        step=planned.step,
        action=planned.action,
        why=planned.why,
        because_of=planned.because_of,
        cost_usd=usd(planned.cost_micros),
        duration_ms=planned.duration_ms,
    )

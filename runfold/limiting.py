"""A limit is told in the same append as the fact that broke it, together with what it then stops or asks."""

from collections.abc import Sequence

from msgspec.structs import replace

from runfold.approvals import ask_for_more
from runfold.closing import close_at_limit, describe_hit, give_back, has_to_be_ended_first
from runfold.commands import Budget
from runfold.events import Event, Failure, LimitExceeded, LimitWarned, RunPaused, StepFailed, Unknown
from runfold.evolve import evolve
from runfold.limits import WARN_AT, Measured, has_step_limits, measure, measure_step
from runfold.reasons import limit_code
from runfold.state import LimitHit, Run

_WARNED = frozenset({"cost", "tokens", "time"})
_WEIGHT = {"warn": 0, "ask": 1, "stop": 2}
_GOING_ON = frozenset({"queued", "running", "pausing", "paused"})


def with_limits(run: Run, events: Sequence[Event | Unknown], now_us: int) -> tuple[Event | Unknown, ...]:
    """The events, and every limit of the run or of a step that they break, with what follows."""
    if not run.limits and not run.steps:
        return tuple(events)
    steps_count = has_step_limits(run)
    if (not run.limits and not steps_count) or run.driver == "imported" or run.status is None:
        return tuple(events)
    after = run
    for event in events:
        after = evolve(after, event, at_us=now_us)
    if after.is_final or (after.is_resting and not run.is_resting):
        return tuple(events)
    added: list[Event] = []
    if steps_count:
        for it in after.open_steps:
            for measured in measure_step(after, it.step, now_us=now_us):
                added += _tell(after, measured)
    for measured in measure(after, now_us=now_us):
        added += _tell(after, measured)
    if not added:
        return tuple(events)
    added = _in_order(added)
    return (*events, *added, *_consequences(after, added, now_us))


def stop_at_budgets(run: Run, budgets: Sequence[Budget], now_us: int) -> tuple[Event, ...]:
    """What is left for everybody is used up: the events that warn, stop or ask; `()` where there is enough left."""
    if run.driver == "imported" or run.status not in _GOING_ON:
        return ()
    told = _in_order([it for budget in budgets for it in _tell_budget(run, budget)])
    return (*told, *_consequences(run, told, now_us)) if told else ()


def _tell_budget(run: Run, budget: Budget) -> tuple[Event, ...]:
    """The event of a budget that is used up, or nearly, or that cannot be kept because nobody knows the price."""
    key = f"{budget.scope}:{budget.limit}"
    over = round(budget.actual - budget.threshold, 6)
    exceeded = LimitExceeded(
        limit=budget.limit,
        scope=budget.scope,
        threshold=budget.threshold,
        actual=budget.actual,
        overshoot=max(0.0, over),
        on_exceed=budget.on_exceed,
    )
    if over >= 0:
        # What a person let go on, or was warned of, is not told again; what stops, stops whoever comes next as well.
        is_told = run.told.get(f"{key}:exceeded") == budget.threshold
        return () if is_told and budget.on_exceed != "stop" else (exceeded,)
    if budget.limit == "cost" and run.unpriced and run.told.get(f"{key}:price_unknown") != budget.threshold:
        return (replace(exceeded, on_exceed=budget.on_unknown_price, reason="price_unknown"),)
    if budget.actual < WARN_AT * budget.threshold or run.told.get(f"{key}:warned") == budget.threshold:
        return ()
    return (
        LimitWarned(
            limit=budget.limit,
            scope=budget.scope,
            threshold=budget.threshold,
            actual=budget.actual,
            on_exceed=budget.on_exceed,
        ),
    )


def before_start(
    run: Run, budgets: Sequence[Budget], now_us: int, *, turn: bool = False, step: str | None = None
) -> tuple[tuple[Event, ...], bool]:
    """What limits have to say before something starts, and whether it may."""
    told = stop_at_budgets(run, budgets, now_us)
    if any(isinstance(it, LimitExceeded) and it.on_exceed != "warn" for it in told):
        return told, False
    broken = _limit_in_the_way(run, now_us, turn=turn, step=step)
    return (broken, False) if broken else (told, True)


def _limit_in_the_way(run: Run, now_us: int, *, turn: bool, step: str | None) -> tuple[Event, ...]:
    """The events of a limit that what is about to start would break; `()` where it may start."""
    ahead = replace(run, turns=run.turns + turn)
    broken = [it for it in measure(ahead, now_us=now_us) if it.is_broken and it.limit.on_exceed != "warn"]
    told: list[Event] = [_exceeded(run, it) for it in broken if not it.reason]
    if not told and step is not None:
        used_up = [it for it in measure_step(run, step, now_us=now_us) if it.actual >= it.limit.threshold]
        told += [_exceeded(run, it) for it in used_up if it.limit.on_exceed != "warn"]
        if told and not any(isinstance(it, LimitExceeded) and it.on_exceed == "ask" for it in told):
            # The step fails without having started: its attempts are used up.
            hit = LimitHit(**{name: getattr(told[-1], name) for name in LimitHit.__struct_fields__})
            attempt = max(1, run.step_states[step].attempt)
            return (*told, StepFailed(step=step, attempt=attempt, error=_failure(hit)))
    told = _in_order(told)
    return (*told, *_consequences(run, told, now_us)) if told else ()


def _tell(run: Run, measured: Measured) -> tuple[Event, ...]:
    """The event of a limit that is broken, or nearly, unless it was told before."""
    limit = measured.limit
    key = f"{limit.scope}:{limit.limit}"
    if measured.is_broken:
        known = run.told.get(f"{key}:{measured.reason or 'exceeded'}")
        return () if known == limit.threshold else (_exceeded(run, measured),)
    near = limit.limit in _WARNED and measured.actual >= WARN_AT * limit.threshold
    if not near or run.told.get(f"{key}:warned") == limit.threshold:
        return ()
    return (
        LimitWarned(
            limit=limit.limit,
            scope=limit.scope,
            threshold=limit.threshold,
            actual=measured.actual,
            on_exceed=limit.on_exceed,
        ),
    )


def _exceeded(run: Run, measured: Measured) -> LimitExceeded:
    limit = measured.limit
    return LimitExceeded(
        limit=limit.limit,
        scope=limit.scope,
        threshold=limit.threshold,
        actual=measured.actual,
        overshoot=measured.overshoot,
        # A run that ends or rests already has nothing left to stop: the fact is told all the same.
        on_exceed=limit.on_exceed if run.status in _GOING_ON else "warn",
        reason=measured.reason,
    )


def _consequences(run: Run, told: Sequence[Event], now_us: int) -> tuple[Event, ...]:
    """What follows once these are told; the run is as it was before them."""
    exceeded = [it for it in told if isinstance(it, LimitExceeded) and it.on_exceed != "warn"]
    after = _after(run, told, now_us)
    failed: tuple[Event, ...] = ()
    for step in dict.fromkeys(it.scope.removeprefix("step:") for it in exceeded if _fails_step(it)):
        failed += fail_at_limit(after, step)
    if all(_fails_step(it) for it in exceeded):
        return failed
    after = _after(after, failed, now_us)
    if after.hit is None or has_to_be_ended_first(after):
        return failed
    if after.hit.on_exceed == "stop":
        return (*failed, *close_at_limit(after))
    return (*failed, *ask_and_pause(after, now_us))


def ask_and_pause(run: Run, now_us: int) -> tuple[Event, ...]:
    """The run pauses at the limit that asks, until a person answers."""
    if run.hit is None:
        return ()
    asked = ask_for_more(run, run.hit, now_us)
    paused = RunPaused(reason=describe_hit(run.hit), waiting_on=f"approval:{asked.approval_id}")
    return (asked, paused, *give_back(run))


def fail_at_limit(run: Run, step: str) -> tuple[Event, ...]:
    """A step that its own limit ends, once no turn of it is open."""
    hit = run.step_hits.get(step)
    if hit is None or any(it.step == step for it in run.open_turns):
        return ()
    opened = next((it for it in run.open_steps if it.step == step), None)
    if opened is None:
        return ()
    return (StepFailed(step=step, attempt=opened.attempt, error=_failure(hit)),)


def _failure(hit: LimitHit) -> Failure:
    return Failure(code=limit_code(hit.limit), message=describe_hit(hit))


def _fails_step(told: LimitExceeded) -> bool:
    return told.on_exceed == "stop" and told.scope.startswith("step:")


def _after(run: Run, events: Sequence[Event], now_us: int) -> Run:
    for event in events:
        run = evolve(run, event, at_us=now_us)
    return run


def _in_order(told: list[Event]) -> list[Event]:
    """What stops outweighs what asks, and the last word counts."""
    return sorted(told, key=lambda it: _WEIGHT[it.on_exceed] if isinstance(it, LimitExceeded) else 0)

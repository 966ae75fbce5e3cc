"""Past runs against other limits: which would have stopped, where, and what that would have saved.

Each run's events are folded as they were recorded, with the limits of a policy in place of its own. Budgets are added
up over the runs in the order of the log, without what a run spent after the policy had stopped it.
"""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from runfold.budgets import BudgetRule, first_day, rules_for
from runfold.envelope import SYSTEM_STREAM, Recorded, time_text
from runfold.errors import InvalidEvent
from runfold.events import Event, TokenUsage, Unknown
from runfold.evolve import CHANGING_NOTHING, evolve_decoded
from runfold.limits import Limit, Measured, active_us, measure, measure_step
from runfold.policy import Policy
from runfold.report import usd
from runfold.state import Run, new_run


class WouldStop(msgspec.Struct, frozen=True, kw_only=True):
    """Where the policy would have stopped, or asked, a run or one of its steps; the saved is what was spent after it.

    `status` is how the run stands in truth: a policy that stops what completed costs more than it saves. `at` is when,
    which for a limit of time may lie before the event that shows it.
    """

    run_id: str
    workflow: str | None
    title: str
    status: str
    scope: str
    limit: str
    on_exceed: str
    reason: str
    threshold: float
    actual: float
    position: int
    version: int
    type: str
    at: str
    spent_usd: float | None
    saved_usd: float | None
    saved_tokens: int
    saved_ms: int


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs were looked at and would have stopped; what all cost, and what would not have been spent."""

    runs: int
    stopped: int
    spent_usd: float | None
    saved_usd: float
    items: tuple[WouldStop, ...]


def backtest(policy: Policy, events: Iterable[Recorded], *, since_us: int = 0) -> Backtest:
    """What the policy would have done to the runs that were opened since then; `events` is the log in its order."""
    watched: dict[str, _Watched] = {}
    spending = _Spending(policy.budgets)
    for recorded in events:
        if recorded.run_id == SYSTEM_STREAM:
            continue
        one = watched.get(recorded.run_id)
        if one is None:
            # A run whose beginning is older, or no longer kept, cannot be folded.
            if recorded.version != 1 or recorded.recorded_at_us < since_us:
                continue
            one = watched[recorded.run_id] = _Watched(policy, new_run(recorded.run_id, recorded.tenant))
        one.add(recorded, spending)
    items = [item for one in watched.values() for item in one.told()]
    costs = [one.run.cost_micros for one in watched.values() if one.run.cost_micros is not None]
    stopped = {item.run_id for item in items if not item.scope.startswith("step:")}
    # What a step would have saved of a run that would have stopped as well is not saved twice.
    counted = [item for item in items if not item.scope.startswith("step:") or item.run_id not in stopped]
    return Backtest(
        runs=len(watched),
        stopped=len(stopped),
        spent_usd=usd(sum(costs)) if costs else None,
        saved_usd=round(sum(item.saved_usd or 0.0 for item in counted), 6),
        items=tuple(sorted(items, key=lambda item: item.position)),
    )


class _Stop(msgspec.Struct, frozen=True, kw_only=True):
    measured: Measured
    recorded: Recorded
    at_us: int
    run: Run


class _Watched:
    """One run under the policy."""

    def __init__(self, policy: Policy, run: Run) -> None:
        self._policy, self.run = policy, run
        self.stop: _Stop | None = None
        self._step_stops: dict[str, _Stop] = {}

    def add(self, recorded: Recorded, spending: "_Spending") -> None:
        event = _event(recorded)
        before, after = self.run, evolve_decoded(self.run, recorded, event)
        # Whatever limits the run had, or was given on its way, were not these.
        limits = self._policy.limits_of(after.workflow)
        steps = tuple(replace(spec, limits={}) for spec in after.steps) if before.version == 0 else after.steps
        self.run = replace(after, limits=limits, steps=steps)
        if self.stop is not None or before.is_resting:
            return
        if isinstance(event, TokenUsage) and after.driver != "imported":
            spending.add(self.run, recorded, event)
        for measured in self._broken(recorded, spending):
            over_us = round((measured.actual - measured.limit.threshold) * 1e6) if measured.limit.limit == "time" else 0
            stop = _Stop(measured=measured, recorded=recorded, at_us=recorded.at_us - over_us, run=self.run)
            if not measured.limit.scope.startswith("step:"):
                self.stop = stop
                return
            self._step_stops.setdefault(measured.limit.scope.removeprefix("step:"), stop)

    def _broken(self, recorded: Recorded, spending: "_Spending") -> Iterator[Measured]:
        now_us = recorded.at_us
        found = [*measure(self.run, now_us=now_us)] if self.run.limits else []
        if any(name.startswith("step:") for name in self.run.limits):
            found += [it for opened in self.run.open_steps for it in measure_step(self.run, opened.step, now_us=now_us)]
        if self.run.driver != "imported":
            found += spending.measured(self.run, recorded)
        return (it for it in found if it.is_broken and it.limit.on_exceed != "warn")

    def told(self) -> Iterator[WouldStop]:
        for step, stop in self._step_stops.items():
            yield self._item(stop, step)
        if self.stop is not None:
            yield self._item(self.stop, None)

    def _item(self, stop: _Stop, step: str | None) -> WouldStop:
        then, now = stop.run, self.run
        spent, total, tokens = then.cost_micros, now.cost_micros, now.tokens.total - then.tokens.total
        if step is not None:
            spent, total = then.step_states[step].cost_micros, now.step_states[step].cost_micros
            tokens = now.step_states[step].tokens - then.step_states[step].tokens
        limit, recorded = stop.measured.limit, stop.recorded
        had_gone_on = limit.threshold * 1e6 if limit.limit == "time" else active_us(then, now_us=stop.at_us)
        went_on = round(active_us(now, now_us=now.updated_at_us) - had_gone_on)
        return WouldStop(
            run_id=now.run_id,
            workflow=now.workflow,
            title=now.title,
            status=now.status or "",
            scope=limit.scope,
            limit=limit.limit,
            on_exceed=limit.on_exceed,
            reason=stop.measured.reason,
            threshold=limit.threshold,
            actual=stop.measured.actual,
            position=recorded.position,
            version=recorded.version,
            type=recorded.type,
            at=time_text(stop.at_us),
            spent_usd=usd(spent),
            saved_usd=None if total is None else ((total - (spent or 0)) / 1_000_000),
            saved_tokens=tokens,
            saved_ms=0 if step is not None else max(0, went_on) // 1_000,
        )


class _Spending:
    """What was spent of every budget, by its name and period."""

    def __init__(self, rules: tuple[BudgetRule, ...]) -> None:
        self._rules = rules
        self._sums: dict[tuple[str, str, str, int | None], list[int]] = {}

    def add(self, run: Run, recorded: Recorded, usage: TokenUsage) -> None:
        for rule in rules_for(self._rules, tenant=run.tenant, workflow=run.workflow):
            known = self._sums.setdefault(_key(rule, run, recorded.recorded_at_us), [0, 0])
            known[0] += usage.cost_micros or 0
            known[1] += usage.input_tokens + usage.output_tokens

    def measured(self, run: Run, recorded: Recorded) -> list[Measured]:
        found: list[Measured] = []
        for rule in rules_for(self._rules, tenant=run.tenant, workflow=run.workflow):
            cost_micros, tokens = self._sums.get(_key(rule, run, recorded.recorded_at_us), (0, 0))
            actual = cost_micros / 1_000_000 if rule.limit == "cost" else float(tokens)
            limit = Limit(limit=rule.limit, threshold=rule.threshold, on_exceed=rule.on_exceed, scope=rule.scope)
            over = max(0.0, round(actual - rule.threshold, 6))
            found.append(Measured(limit=limit, actual=actual, is_broken=actual >= rule.threshold, overshoot=over))
        return found


def _key(rule: BudgetRule, run: Run, now_us: int) -> tuple[str, str, str, int | None]:
    name = {"tenant": run.tenant, "workflow": run.workflow or "", "day": ""}[rule.scope]
    return rule.limit, rule.scope, name, first_day(rule.per, now_us)


def _event(recorded: Recorded) -> Event | Unknown | None:
    if recorded.type in CHANGING_NOTHING:
        return None
    try:
        return recorded.event()
    except InvalidEvent:
        return None

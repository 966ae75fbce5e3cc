"""What people and programs read of a run: the fold in public words, pure, so every surface shows the same."""

from collections import Counter

import msgspec
from msgspec.structs import replace

from runfold.envelope import time_text
from runfold.events import Completion, CostEstimated, Driver, Failure, Json
from runfold.limits import has_step_limits, measure, step_limits_of
from runfold.progress import Progress, progress
from runfold.report import Report, duration_us, report, usd
from runfold.state import Run, Status, Tests

SPENT_STEPS_MAX = 50


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    total: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """`cost_usd` is null while no price is known: unknown is not zero."""

    turns: int
    tokens: TokenCounts
    cost_usd: float | None
    files: int
    tests: Tests
    events: int


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """`retries` are the runs that tried this one again, the oldest first: only who knows all runs can say."""

    retry_of: str | None
    resumed_from: str | None
    parent_run_id: str | None
    from_step: str | None = None
    retries: tuple[str, ...] = ()


class StepsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`by_status` counts every step of the graph; `current` is the one that started last of those at work."""

    total: int
    running: tuple[str, ...]
    current: str | None
    by_status: dict[str, int]


class LimitSpent(msgspec.Struct, frozen=True, kw_only=True):
    """A limit and how much of it is used; time in seconds, cost in dollars, rates as shares."""

    threshold: float
    spent: float
    remaining: float
    on_exceed: str
    exceeded: bool


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What one model or one step has spent; `limit_usd` is of a step that has a limit of its own."""

    name: str | None
    tokens: int
    cost_usd: float | None
    limit_usd: float | None = None


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tokens and the money went, the dearest first; of many steps the first 50."""

    by_model: tuple[Spent, ...] = ()
    by_step: tuple[Spent, ...] = ()


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What was said before, or on the way, of what the run will cost in all."""

    low_usd: float
    high_usd: float
    basis: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    workflow: str | None
    title: str
    status: Status | None
    reason_code: str
    message: str
    payload: Json
    context: dict[str, Json]
    labels: dict[str, str]
    driver: Driver
    pid: int | None
    worker: str
    current_turn: int | None
    stats: Stats
    completion: Completion | None
    error: Failure | None
    waiting_on: str | None
    limits: dict[str, LimitSpent]
    estimate: Expected | None = None
    spending: Spending = Spending()
    lineage: Lineage
    steps: StepsSummary
    progress: Progress | None
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    duration_ms: int | None
    version: int
    position: int
    command: tuple[str, ...]
    report: Report


def snapshot(run: Run, *, position: int) -> Snapshot:
    """The run as the API, the terminal and `state.json` show it; `position` is that of its last event."""
    duration = duration_us(run)
    return Snapshot(
        id=run.run_id,
        tenant=run.tenant,
        workflow=run.workflow,
        title=run.title,
        status=run.status,
        reason_code=run.reason_code,
        message=run.message,
        payload=run.payload,
        context=run.context,
        labels=run.labels,
        driver=run.driver,
        pid=run.pid,
        worker=run.worker,
        current_turn=run.turn if run.turn_open else None,
        stats=_stats(run),
        completion=run.completion,
        error=run.error,
        waiting_on=run.waiting_on,
        limits=limits_spent(run),
        estimate=expected(run.estimate),
        spending=spending(run),
        lineage=Lineage(
            retry_of=run.retry_of,
            resumed_from=run.resumed_from,
            parent_run_id=run.parent_run_id,
            from_step=run.from_step,
        ),
        steps=steps_summary(run),
        progress=progress(run),
        created_at=time_text(run.created_at_us) if run.status else None,
        started_at=_time(run.started_at_us),
        completed_at=_time(run.completed_at_us),
        duration_ms=None if duration is None else duration // 1_000,
        version=run.version,
        position=position,
        command=run.command,
        report=report(run),
    )


def without_trace(shown: Snapshot) -> Snapshot:
    """The same for who is not to see where in a program it failed; the event keeps it."""
    if shown.error is None or shown.error.stack_trace is None:
        return shown
    report = replace(shown.report, details={**shown.report.details, "stack_trace": None})
    return replace(shown, error=replace(shown.error, stack_trace=None), report=report)


def steps_summary(run: Run) -> StepsSummary:
    names = {spec.id for spec in run.steps} | set(run.step_states)
    counts = Counter(run.step_states[name].status if name in run.step_states else "pending" for name in names)
    running = tuple(it.step for it in run.open_steps)
    return StepsSummary(
        total=len(names),
        running=running,
        current=running[-1] if running else None,
        by_status=dict(sorted(counts.items())),
    )


def limits_spent(run: Run) -> dict[str, LimitSpent]:
    """The run's own limits by name, as of its last event."""
    return {
        it.limit.limit: LimitSpent(
            threshold=it.limit.threshold,
            spent=it.actual,
            remaining=max(0.0, round(it.limit.threshold - it.actual, 6)),
            on_exceed=it.limit.on_exceed,
            exceeded=it.is_broken,
        )
        for it in measure(run, now_us=run.updated_at_us)
        if not it.reason
    }


def spending(run: Run) -> Spending:
    """By model and by step, as of the run's last event."""
    models = [
        Spent(name=name or None, tokens=used.tokens, cost_usd=usd(used.cost_micros))
        for name, used in run.models.items()
    ]
    spent = [(name, it) for name, it in run.step_states.items() if it.tokens or it.cost_micros]
    spent.sort(key=lambda pair: (-(pair[1].cost_micros or 0), -pair[1].tokens))
    limited = has_step_limits(run)
    steps = [
        Spent(
            name=name,
            tokens=it.tokens,
            cost_usd=usd(it.cost_micros),
            limit_usd=_limit_usd(run, name) if limited else None,
        )
        for name, it in spent[:SPENT_STEPS_MAX]
    ]
    return Spending(
        by_model=tuple(sorted(models, key=lambda it: (-(it.cost_usd or 0), -it.tokens))), by_step=tuple(steps)
    )


def _limit_usd(run: Run, step: str) -> float | None:
    return next((it.threshold for it in step_limits_of(run, step) if it.limit == "cost"), None)


def expected(said: CostEstimated | None) -> Expected | None:
    """An estimate as it is shown."""
    if said is None:
        return None
    return Expected(low_usd=said.low_micros / 1_000_000, high_usd=said.high_micros / 1_000_000, basis=said.basis)


def _stats(run: Run) -> Stats:
    tokens = run.tokens
    return Stats(
        turns=run.turns,
        tokens=TokenCounts(
            total=tokens.total,
            input_tokens=tokens.input_tokens,
            cache_read_tokens=tokens.cache_read_tokens,
            cache_write_tokens=tokens.cache_write_tokens,
            output_tokens=tokens.output_tokens,
            reasoning_tokens=tokens.reasoning_tokens,
        ),
        cost_usd=usd(run.cost_micros),
        files=run.files,
        tests=run.tests,
        events=run.version,
    )


def _time(us: int | None) -> str | None:
    return None if us is None else time_text(us)

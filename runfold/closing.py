"""What is open inside a run, ended in the same append as the run: after a run rests, nothing inside it is running."""

from msgspec.structs import replace

from runfold.events import (
    ApprovalExpired,
    ClaimReleased,
    Event,
    Receipt,
    RunCancelled,
    RunStopped,
    StepCancelled,
    ToolReturned,
    TurnCancelled,
)
from runfold.limits import actual_now, words
from runfold.reasons import limit_code, sentence
from runfold.state import LimitHit, Run


def close_tools(run: Run) -> tuple[Event, ...]:
    """Every tool call that has not returned, as interrupted."""
    return tuple(
        ToolReturned(call_id=call_id, tool=tool, status="interrupted") for call_id, tool in run.open_tools.items()
    )


def close_all(run: Run, *, reason: str = "", receipt: Receipt | None = None) -> tuple[Event, ...]:
    """The events that end whatever is open, the innermost first."""
    turns = tuple(
        TurnCancelled(turn=it.turn, step=it.step, attempt=it.attempt, receipt=receipt) for it in run.open_turns
    )
    steps = tuple(StepCancelled(step=it.step, attempt=it.attempt, reason=reason) for it in run.open_steps)
    approvals = tuple(ApprovalExpired(approval_id=approval_id) for approval_id in run.open_approvals)
    return (*close_tools(run), *turns, *steps, *approvals)


def close_cancelled(run: Run, *, reason: str = "", receipt: Receipt | None = None) -> tuple[Event, ...]:
    """Close what is open and cancel; survivors of the kill are told in the reason."""
    code = "KILL_INCOMPLETE" if receipt is not None and receipt.survivors else "CANCELLED_BY_USER"
    ended = RunCancelled(reason=reason, reason_code=code, receipt=receipt)
    return (*close_all(run, reason="the run is cancelled", receipt=receipt), ended)


def close_at_limit(run: Run) -> tuple[Event, ...]:
    """Close what is open and stop at the limit that had asked for it, with all that was spent until now."""
    hit = None if run.hit is None else replace(run.hit, actual=actual_now(run, run.hit))
    if hit is None:
        code = "CIRCUIT_BREAKER"
        stopped = RunStopped(reason_code=code, message=sentence(code))
    else:
        stopped = RunStopped(
            reason_code=limit_code(hit.limit),
            condition=hit.limit if hit.scope == "run" else f"{hit.scope} {hit.limit}",
            threshold=hit.threshold,
            actual=hit.actual,
            message=describe_hit(hit),
        )
    return (*close_all(run, reason="the run is stopped"), stopped)


def describe_hit(hit: LimitHit) -> str:
    """What a limit says of itself when it stops or asks."""
    if hit.reason == "price_unknown":
        return "What was used has no known price, and a cost limit stands"
    used = words(hit.limit, hit.actual, hit.threshold)
    if hit.scope in ("workflow", "tenant", "day"):
        return f"The {hit.limit} budget of the {hit.scope} is used up: {used}; `[budgets]` in runfold.toml gives more"
    whose = "" if hit.scope == "run" else f" of the {hit.scope.replace(':', ' ', 1)}"
    return f"{sentence(limit_code(hit.limit))}{whose}: {used}"


def has_to_be_ended_first(run: Run) -> bool:
    """Something is at work that only its driver can end; who drives a reported run without a lease cannot be asked."""
    if run.is_driven:
        return run.turn_open
    at_work = run.turn_open or bool(run.open_steps) or run.units.current is not None
    return run.lease_seconds is not None and at_work


def give_back(run: Run, *, reason: str = "paused") -> tuple[Event, ...]:
    """A run that waits keeps no worker."""
    return (ClaimReleased(claim=run.claim, worker=run.worker, reason=reason),) if run.worker else ()

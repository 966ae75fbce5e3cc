"""What is open inside a run, ended in the same append as the run: after a run rests, nothing inside it is running."""

from runfold.events import (
    ApprovalExpired,
    Event,
    Receipt,
    RunCancelled,
    RunStopped,
    StepCancelled,
    ToolReturned,
    TurnCancelled,
)
from runfold.reasons import sentence
from runfold.state import Run


def close_tools(run: Run) -> tuple[Event, ...]:
    """Every tool call that has not returned, as interrupted."""
    return tuple(
        ToolReturned(call_id=call_id, tool=tool, status="interrupted") for call_id, tool in run.open_tools.items()
    )


def close_all(run: Run, *, reason: str = "", receipt: Receipt | None = None) -> tuple[Event, ...]:
    """The events that end whatever is open, the innermost first."""
    turn = (TurnCancelled(turn=run.turn, receipt=receipt),) if run.turn_open else ()
    steps = tuple(StepCancelled(step=it.step, attempt=it.attempt, reason=reason) for it in run.open_steps)
    approvals = tuple(ApprovalExpired(approval_id=approval_id) for approval_id in run.open_approvals)
    return (*close_tools(run), *turn, *steps, *approvals)


def close_cancelled(run: Run, *, reason: str = "", receipt: Receipt | None = None) -> tuple[Event, ...]:
    """Close what is open and cancel; survivors of the kill are told in the reason."""
    code = "KILL_INCOMPLETE" if receipt is not None and receipt.survivors else "CANCELLED_BY_USER"
    ended = RunCancelled(reason=reason, reason_code=code, receipt=receipt)
    return (*close_all(run, reason="the run is cancelled", receipt=receipt), ended)


def close_at_limit(run: Run) -> tuple[Event, ...]:
    """Close what is open and stop at the limit that had asked for it."""
    code = run.stop_code or "CIRCUIT_BREAKER"
    stopped = RunStopped(reason_code=code, message=sentence(code))
    return (*close_all(run, reason="the run is stopped"), stopped)

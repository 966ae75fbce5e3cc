"""Pause, resume and cancel: at once where nobody has to be asked, else a request that the driver answers."""

from typing import NoReturn

from runfold.closing import close_cancelled, give_back
from runfold.commands import Cancel, Cancelled, Pause, Paused, Resume
from runfold.ending import check_driver
from runfold.errors import NotAllowed
from runfold.events import (
    ApprovalGranted,
    CancelRequested,
    Event,
    PauseRequested,
    RunClaimed,
    RunPaused,
    RunResumed,
)
from runfold.limiting import ask_and_pause
from runfold.limits import check_room, more_turns
from runfold.state import Run


def pause(run: Run, command: Pause) -> tuple[Event, ...]:
    if run.status == "paused" or (run.status == "pausing" and not (command.now and run.turn_open)):
        return ()
    if run.status not in ("queued", "running", "pausing"):
        _refuse(run, "paused")
    if run.status == "queued":
        return (RunPaused(reason=command.reason), *give_back(run))
    if _is_alone(run):
        return (PauseRequested(reason=command.reason, now=command.now), RunPaused(reason=command.reason))
    return (PauseRequested(reason=command.reason, now=command.now),)


def paused(run: Run, command: Paused, now_us: int) -> tuple[Event, ...]:
    if run.status == "paused" and command.claim is None and not run.is_driven:
        return ()
    check_driver(run, command.claim, "pause")
    if run.status == "paused":
        return ()
    waits = run.status == "running" and command.waiting_on is not None
    if run.status != "pausing" and not waits:
        _refuse(run, "paused by its driver now", hint="nobody asks for a pause any more; go on")
    if run.hit is not None and not run.turn_open:
        return ask_and_pause(run, now_us)
    # A turn that is held, not ended, keeps its claim: its processes are still there.
    given_back = () if run.turn_open else give_back(run)
    waiting_on = command.waiting_on
    if waiting_on is None and run.open_approvals:
        waiting_on = f"approval:{run.open_approvals[0]}"
    return (RunPaused(reason=command.reason, waiting_on=waiting_on), *given_back)


def resume(run: Run, command: Resume) -> tuple[Event, ...]:
    if run.status in ("queued", "running"):
        if command.limits:
            _refuse(run, "given new limits", hint=f"`runfold pause {run.run_id}` first")
        return ()
    if run.driver == "imported":
        _refuse(run, "resumed", hint="it was imported and is over; resume it where it ran")
    if run.status not in ("pausing", "paused", "stopped"):
        _refuse(run, "resumed")
    if run.status == "stopped" and run.is_refused:
        _refuse(run, "resumed: nobody allowed its start", hint=f"`runfold retry {run.run_id}` asks again")
    answered = _answer(run, command)
    check_room(run, command.limits)
    more = more_turns(run, command.limits)
    if command.driver is not None and (command.driver in ("queue", "here")) != run.is_driven:
        _refuse(run, f"driven by `{command.driver}`", hint=f"its driver is `{run.driver}`")
    if run.worker:
        # Its worker is still there and goes on; another driver would be a second one.
        return (*answered, RunResumed(reason=command.reason, limits=command.limits, max_turns=more))
    resumed = RunResumed(reason=command.reason, driver=command.driver, limits=command.limits, max_turns=more)
    if command.driver == "here" and command.worker:
        return (*answered, resumed, RunClaimed(worker=command.worker, host=command.host, claim=run.claim + 1))
    return (*answered, resumed)


def cancel(run: Run, command: Cancel) -> tuple[Event, ...]:
    if run.status == "cancelling":
        return ()
    requested = CancelRequested(reason=command.reason)
    if _is_alone(run) or (run.status in ("queued", "paused", "stopped") and not run.turn_open):
        return (requested, *close_cancelled(run, reason=command.reason))
    return (requested,)


def cancelled(run: Run, command: Cancelled) -> tuple[Event, ...]:
    check_driver(run, command.claim, "say that it is cancelled")
    if run.status != "cancelling":
        _refuse(run, "cancelled by its driver", hint=f"`runfold cancel {run.run_id}` asks for it")
    return close_cancelled(run, receipt=command.receipt)


def _answer(run: Run, command: Resume) -> tuple[Event, ...]:
    """Resuming past a limit that asks, with a new limit, is granting it; another question has to be answered."""
    name = (run.waiting_on or "").removeprefix("approval:")
    asked = run.approvals.get(name)
    if asked is None or asked.status != "pending":
        return ()
    if asked.kind != "limit" or not command.limits:
        _refuse(run, "resumed: it waits for an answer", hint=f"`runfold approve {run.run_id} {name}` or `runfold deny`")
    return (ApprovalGranted(approval_id=name, comment=command.reason),)


def _is_alone(run: Run) -> bool:
    """Nobody listens who would have to end something first."""
    if run.is_driven:
        return not run.worker and not run.turn_open
    return run.lease_seconds is None


def _refuse(run: Run, what: str, *, hint: str = "") -> NoReturn:
    raise NotAllowed(
        f"run `{run.run_id}` is {run.status} and cannot be {what}",
        hint=hint or f"`runfold status {run.run_id}` says what it waits for",
        run_id=run.run_id,
    )

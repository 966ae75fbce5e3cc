"""How a run ends, stops or loses its worker, and whose word it takes."""

from msgspec.structs import replace

from runfold.closing import close_all, close_at_limit, close_cancelled
from runfold.commands import Complete, Fail, LoseClaim, ReleaseClaim, Stop
from runfold.errors import BadRequest, Fenced, NotAllowed
from runfold.events import (
    ClaimLost,
    ClaimReleased,
    Driver,
    Event,
    Failure,
    Json,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunRequeued,
    RunStopped,
)
from runfold.reasons import approved_code, reason_status, sentence
from runfold.state import Run
from runfold.units import units_failed

RECOVERIES_MAX = 3


def complete(run: Run, command: Complete) -> tuple[Event, ...]:
    check_driver(run, command.claim, "complete")
    _check_code(command.reason_code, "completed")
    if asked := _asked_otherwise(run):
        return asked
    _check_status(run, ("running", "pausing", "paused"), "be completed")
    code = completed_code(run, command.reason_code)
    location, files = run.context.get("export_location"), run.context.get("files")
    valid = run.context.get("validation_passed")
    completed = RunCompleted(
        reason_code=code,
        message=command.message,
        exit_code=command.exit_code,
        completion=command.completion,
        export_location=location if isinstance(location, str) else None,
        files=_texts(files),
        validation_passed=valid if isinstance(valid, bool) else None,
    )
    return (*close_all(run, reason="the run is completed"), completed)


def completed_code(run: Run, said: str) -> str:
    """What the counted work says of a run that ended well, where nobody said more than that it ended."""
    if said not in ("REPORTED", "EXIT_ZERO"):
        return said
    if run.units.approved or units_failed(run.units):
        total = run.units_total or run.units.started
        all_approved = run.units.approved >= total and not units_failed(run.units)
        return approved_code(run.unit_name) if all_approved else "PARTIAL_SUCCESS"
    states = run.step_states
    if run.steps and all(
        spec.id in states and states[spec.id].status in ("completed", "skipped") for spec in run.steps
    ):
        return "ALL_STEPS_COMPLETED"
    return said


def fail(run: Run, command: Fail) -> tuple[Event, ...]:
    check_driver(run, command.claim, "fail")
    _check_code(command.reason_code, "failed")
    if asked := _asked_otherwise(run):
        return asked
    _check_status(run, ("queued", "running", "pausing", "paused"), "fail")
    code, error = command.reason_code, command.error
    if code == "EXIT_NONZERO" and run.last_agent_error is not None:
        code, error = run.last_agent_error.code, run.last_agent_error
    if not error.code:
        error = replace(error, code=code)
    return (*close_all(run, reason="the run failed"), RunFailed(reason_code=code, error=error))


def stop(run: Run, command: Stop) -> tuple[Event, ...]:
    if run.status == "stopped":
        return ()
    if run.is_driven and command.claim is None and not run.worker and run.status in ("queued", "paused"):
        pass  # Nobody drives it, so nobody has to be asked.
    else:
        check_driver(run, command.claim, "stop")
    _check_code(command.reason_code, "stopped")
    if asked := _asked_otherwise(run):
        return asked
    stopped = RunStopped(
        reason_code=command.reason_code,
        condition=command.condition,
        threshold=command.threshold,
        actual=command.actual,
        message=command.message,
    )
    return (*close_all(run, reason="the run is stopped"), stopped)


def release_claim(run: Run, command: ReleaseClaim) -> tuple[Event, ...]:
    check_claim(run, command.claim)
    released = ClaimReleased(claim=run.claim, worker=run.worker, reason=command.reason)
    if run.turn_open or run.status in ("pausing", "cancelling", "stopping"):
        what = f"turn {run.turn} is open" if run.turn_open else f"it is {run.status}"
        raise NotAllowed(
            f"the claim of run `{run.run_id}` cannot be given back: {what}", hint="end that first", run_id=run.run_id
        )
    if run.status == "running":
        # A run that nobody drives does not run: the next worker takes it.
        return (released, *close_all(run, reason="the claim was given back"), RunRequeued(reason=command.reason))
    return (released,)


def lose_claim(run: Run, command: LoseClaim) -> tuple[Event, ...]:
    if run.is_driven:
        check_claim(run, command.claim)
        lost: tuple[Event, ...] = (ClaimLost(claim=run.claim, worker=run.worker, host=run.host, reason=command.reason),)
    elif run.lease_seconds is None:
        raise NotAllowed(f"run `{run.run_id}` is reported and has no lease to lose", run_id=run.run_id)
    elif run.status == "stopped":
        return ()
    else:
        lost = ()
    return (*lost, *_without_worker(run, command.reason))


def _without_worker(run: Run, reason: str) -> tuple[Event, ...]:
    if asked := _asked_otherwise(run):
        return asked
    closed = close_all(run, reason="the worker was lost")
    error = Failure(code="WORKER_LOST", message=reason or sentence("WORKER_LOST"), retryable=True)
    # A claimed run that never started has done nothing, so starting it elsewhere is always safe.
    may_go_on = run.is_driven and (run.on_lost == "resume" or (run.status == "queued" and not run.started))
    if not may_go_on:
        return (*closed, RunFailed(reason_code="WORKER_LOST", error=error))
    if run.recoveries >= RECOVERIES_MAX:
        limit = Failure(code="RECOVERY_LIMIT", message=f"its worker was lost {run.recoveries + 1} times")
        return (*closed, RunFailed(reason_code="RECOVERY_LIMIT", error=limit))
    if run.status == "pausing":
        return (*closed, RunPaused(reason=reason))
    if run.status == "paused":
        return closed
    # The terminal it was started in is gone; any server that has the workflow can go on with it.
    driver: Driver | None = "queue" if run.driver == "here" else None
    return (*closed, RunRequeued(reason=reason or "the worker was lost", driver=driver))


def check_claim(run: Run, claim: int) -> None:
    """Only the holder of the run's newest claim may go on. Raises Fenced."""
    if not run.worker or claim != run.claim:
        holder = f"{run.worker} holds claim {run.claim}" if run.worker else "nobody holds it"
        raise Fenced(
            f"claim {claim} of run `{run.run_id}` is not valid: {holder}",
            hint="end the run's processes here; another worker may drive it now",
            run_id=run.run_id,
        )


def check_driver(run: Run, claim: int | None, verb: str) -> None:
    """A worker speaks with its claim, a reporter without one. Raises Fenced, NotAllowed."""
    if claim is not None:
        check_claim(run, claim)
    elif run.is_driven:
        raise NotAllowed(
            f"run `{run.run_id}` has a worker, and only it can {verb} the run",
            hint=f"`runfold cancel {run.run_id}` or `runfold pause {run.run_id}`",
            run_id=run.run_id,
        )


def _asked_otherwise(run: Run) -> tuple[Event, ...]:
    # What was asked for decides how the run ends, never how its command happened to exit.
    if run.status == "cancelling":
        return close_cancelled(run)
    if run.status == "stopping":
        return close_at_limit(run)
    return ()


def _check_status(run: Run, allowed: tuple[str, ...], what: str) -> None:
    if run.status not in allowed:
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status} and cannot {what}",
            hint=f"`runfold resume {run.run_id}` or `runfold cancel {run.run_id}`",
            run_id=run.run_id,
        )


def _check_code(code: str, status: str) -> None:
    known = reason_status(code)
    if known != status:
        says = "is not a known reason code" if known is None else f"is a reason for {known}, not for {status}"
        raise BadRequest(
            f"`{code[:80]}` {says}", hint="docs/events.md lists them; `SYS_*` and `DEP_*` are free to fail"
        )


def _texts(value: Json) -> tuple[str, ...]:
    items: list[Json] = list(value) if isinstance(value, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
    return tuple(item for item in items if isinstance(item, str))

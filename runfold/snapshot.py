"""What people and programs read of a run: the fold in public words, pure, so every surface shows the same."""

from typing import Any, Literal

import msgspec

from runfold.envelope import time_text
from runfold.events import Completion, Driver, Failure, Json
from runfold.state import Run, Status, Tests

ReportStatus = Literal["in-progress", "completed", "stopped", "failed"]
_REPORT_STATUS: dict[str, ReportStatus] = {
    "completed": "completed",
    "failed": "failed",
    "stopped": "stopped",
    "cancelled": "stopped",
}
_LIMIT_OF_REASON = {
    "COST_LIMIT_EXCEEDED": "cost",
    "TOKEN_LIMIT_EXCEEDED": "tokens",
    "TIME_LIMIT_EXCEEDED": "time",
    "MAX_TURNS_REACHED": "turns",
}


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
    retry_of: str | None
    resumed_from: str | None
    parent_run_id: str | None


class StepsSummary(msgspec.Struct, frozen=True, kw_only=True):
    total: int
    running: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a run, finished or not; which `details` it carries follows from `status`."""

    status: ReportStatus
    reason_code: str
    message: str
    timestamp: str | None
    unit_name: str
    metrics: dict[str, Json]
    details: dict[str, Json]


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
    limits: dict[str, Json]
    lineage: Lineage
    steps: StepsSummary
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
        limits=run.limits,
        lineage=Lineage(retry_of=run.retry_of, resumed_from=run.resumed_from, parent_run_id=run.parent_run_id),
        steps=StepsSummary(total=len(run.steps), running=tuple(step.step for step in run.open_steps)),
        created_at=time_text(run.created_at_us) if run.status else None,
        started_at=_time(run.started_at_us),
        completed_at=_time(run.completed_at_us),
        duration_ms=None if duration is None else duration // 1_000,
        version=run.version,
        position=position,
        command=run.command,
        report=report(run),
    )


def duration_us(run: Run) -> int | None:
    """From the start to the end, or to the last event of a run that goes on; None before it started."""
    if run.started_at_us is None:
        return None
    ended = run.completed_at_us if run.is_resting and run.completed_at_us is not None else run.updated_at_us
    return max(0, ended - run.started_at_us)


def report(run: Run) -> Report:
    """The report of `docs/events.md`; it reads no clock, so a fold of the same events gives the same report."""
    status = _REPORT_STATUS.get(run.status or "", "in-progress")
    details = {
        "in-progress": _in_progress,
        "completed": _completed,
        "stopped": _stopped,
        "failed": _failed,
    }[status](run)
    return Report(
        status=status,
        reason_code=run.reason_code,
        message=run.message,
        timestamp=time_text(run.updated_at_us) if run.status else None,
        unit_name=run.unit_name,
        metrics=_metrics(run),
        details=details,
    )


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
        cost_usd=_usd(run.cost_micros),
        files=run.files,
        tests=run.tests,
        events=run.version,
    )


def _metrics(run: Run) -> dict[str, Json]:
    units = run.units
    failed = units.failed + units.rejected
    ended = units.approved + failed
    metrics: dict[str, Any] = {
        "total_units": run.units_total,
        "units_completed": units.approved,
        "units_failed": failed,
        "units_remaining": _units_remaining(run),
        "total_attempts": units.attempts,
        "retry_rate": _rate(units.retried, run.units_total or units.started),
        "reject_rate": _rate(units.rejected, ended),
        "turns": run.turns,
        "tokens": run.tokens.total,
        "cost_usd": _usd(run.cost_micros),
    }
    if run.unit_name != "unit":
        metrics[f"{run.unit_name}s_completed"] = units.approved
        metrics[f"{run.unit_name}s_failed"] = failed
    return metrics


def _in_progress(run: Run) -> dict[str, Json]:
    elapsed = duration_us(run)
    done = run.units.approved + run.units.failed + run.units.rejected
    remaining = _units_remaining(run)
    estimated = None
    if elapsed is not None and done and remaining is not None:
        estimated = elapsed * remaining // done // 1_000
    return {
        "current_unit_index": run.units.current_index,
        "current_attempt": run.units.current_attempt or None,
        "elapsed_ms": None if elapsed is None else elapsed // 1_000,
        "estimated_remaining_ms": estimated,
        "current_action": run.units.action,
        "current_step": run.open_steps[0].step if run.open_steps else None,
        "waiting_on": run.waiting_on,
    }


def _completed(run: Run) -> dict[str, Json]:
    duration = duration_us(run)
    total = run.units_total or run.units.started
    return {
        "success_rate": _rate(run.units.approved, total) if total else 1.0,
        "total_duration_ms": None if duration is None else duration // 1_000,
        "export_location": run.context.get("export_location"),
        "files": run.context.get("files", []),
        "validation_passed": run.context.get("validation_passed"),
    }


def _stopped(run: Run) -> dict[str, Json]:
    limit = _LIMIT_OF_REASON.get(run.reason_code, "")
    spent: dict[str, Json] = {"cost": _usd(run.cost_micros), "tokens": run.tokens.total, "turns": run.turns}
    again = "retry" if run.status == "cancelled" else "resume"
    return {
        "stop_condition": run.reason_code,
        "threshold": run.max_turns if limit == "turns" else run.limits.get(limit),
        "actual_value": spent.get(limit),
        "resume_command": f"runfold {again} {run.run_id}",
        "units_remaining": _units_remaining(run),
    }


def _failed(run: Run) -> dict[str, Json]:
    error = run.error or Failure(code=run.reason_code, message=run.message)
    return {
        "error_type": error.type,
        "error_code": error.code or run.reason_code,
        "error_message": error.message or run.message,
        "diagnostic_path": error.diagnostic_path,
        "stack_trace": error.stack_trace,
    }


def _units_remaining(run: Run) -> int | None:
    if run.units_total is None:
        return None
    return max(0, run.units_total - run.units.approved - run.units.failed - run.units.rejected)


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _usd(micros: int | None) -> float | None:
    return None if micros is None else micros / 1_000_000


def _time(us: int | None) -> str | None:
    return None if us is None else time_text(us)

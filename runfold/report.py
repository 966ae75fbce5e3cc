"""The report of a run, finished or not: one pure function of the fold, so every surface tells the same story."""

from collections.abc import Callable
from typing import Literal

import msgspec

from runfold.envelope import time_text
from runfold.events import Failure, Json
from runfold.limits import resume_command
from runfold.state import Run
from runfold.units import estimated_remaining_us, reject_rate, retry_rate, units_failed, units_remaining

ReportStatus = Literal["in-progress", "completed", "stopped", "failed"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a run; which `details` it carries follows from `status`."""

    status: ReportStatus
    reason_code: str
    message: str
    timestamp: str | None
    unit_name: str
    metrics: dict[str, Json]
    details: dict[str, Json]


def report(run: Run) -> Report:
    """It reads no clock: a fold of the same events gives the same report."""
    status, details = _KINDS.get(run.status or "", ("in-progress", _in_progress))
    return Report(
        status=status,
        reason_code=run.reason_code,
        message=run.message,
        timestamp=time_text(run.updated_at_us) if run.status else None,
        unit_name=run.unit_name,
        metrics=metrics(run),
        details=details(run),
    )


def metrics(run: Run) -> dict[str, Json]:
    """The counts, with a unit's own word also under that: `frames_completed`."""
    failed = units_failed(run.units)
    result: dict[str, Json] = {
        "total_units": run.units_total,
        "units_completed": run.units.approved,
        "units_failed": failed,
        "units_remaining": units_remaining(run),
        "total_attempts": run.units.attempts,
        "retry_rate": retry_rate(run),
        "reject_rate": reject_rate(run),
        "turns": run.turns,
        "tokens": run.tokens.total,
        "cost_usd": usd(run.cost_micros),
    }
    if run.unit_name != "unit":
        result[f"{run.unit_name}s_completed"] = run.units.approved
        result[f"{run.unit_name}s_failed"] = failed
    return result


def duration_us(run: Run) -> int | None:
    """From the start to the end, or to the last event of a run that goes on; None before it started."""
    if run.started_at_us is None:
        return None
    ended = run.completed_at_us if run.is_resting and run.completed_at_us is not None else run.updated_at_us
    return max(0, ended - run.started_at_us)


def usd(micros: int | None) -> float | None:
    """Dollars for people; unknown stays unknown."""
    return None if micros is None else micros / 1_000_000


def _in_progress(run: Run) -> dict[str, Json]:
    return {
        "current_unit_index": run.units.current_index,
        "current_attempt": run.units.current_attempt or None,
        "elapsed_ms": _ms(duration_us(run)),
        "estimated_remaining_ms": _ms(estimated_remaining_us(run)),
        "current_action": run.units.action,
        "current_step": run.open_steps[-1].step if run.open_steps else None,
        "waiting_on": run.waiting_on,
    }


def _completed(run: Run) -> dict[str, Json]:
    total = run.units_total or run.units.started
    return {
        "success_rate": run.units.approved / total if total else 1.0,
        "total_duration_ms": _ms(duration_us(run)),
        "export_location": run.context.get("export_location"),
        "files": run.context.get("files", []),
        "validation_passed": run.context.get("validation_passed"),
    }


def _stopped(run: Run) -> dict[str, Json]:
    is_over = run.status == "cancelled" or run.is_refused
    return {
        "stop_condition": run.stop_condition or run.reason_code,
        "threshold": run.stop_threshold,
        "actual_value": run.stop_actual,
        "resume_command": f"runfold retry {run.run_id}" if is_over else resume_command(run),
        "units_remaining": units_remaining(run),
    }


def _failed(run: Run) -> dict[str, Json]:
    error = run.error or Failure(code=run.reason_code, message=run.message)
    return {
        "error_type": error.type,
        "error_code": error.code or run.reason_code,
        "error_message": _sanitized(error.message or run.message),
        "diagnostic_path": error.diagnostic_path,
        "stack_trace": error.stack_trace,
    }


ERROR_CHARACTERS_MAX = 500  # One screen; the whole stands in the event.

_KINDS: dict[str, tuple[ReportStatus, Callable[[Run], dict[str, Json]]]] = {
    "completed": ("completed", _completed),
    "failed": ("failed", _failed),
    "stopped": ("stopped", _stopped),
    "cancelled": ("stopped", _stopped),
}


def _sanitized(text: str) -> str:
    """One line without control characters, so that no error message can draw on a terminal."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= ERROR_CHARACTERS_MAX else f"{line[:ERROR_CHARACTERS_MAX]}…"


def _ms(us: int | None) -> int | None:
    return None if us is None else us // 1_000

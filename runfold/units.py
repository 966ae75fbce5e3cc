"""Counted pieces of work: the part of the fold that belongs to units, and what follows from the counts."""

from typing import Literal, assert_never

from msgspec.structs import replace

from runfold.events import UnitAction, UnitApproved, UnitEvent, UnitFailed, UnitRejected, UnitStarted
from runfold.state import Run, Units

LOST_UNITS_MAX = 2_000  # Beyond, a lost unit is counted and can no longer be taken out by its next attempt.

_CHECKS = ("audit", "check", "review", "validat", "verif", "test")
_AGAIN = ("retry", "rescue", "regenerat", "again")


def evolve_units(units: Units, event: UnitEvent, *, at_us: int, opens: bool) -> Units:
    """The counts after the event; `opens` is False in a run that rests."""
    match event:
        case UnitStarted():
            units = _at_work(units, event) if opens else units
            return replace(
                _found(units, event.unit),
                started=units.started + (event.attempt <= 1),
                attempts=units.attempts + 1,
                retried=units.retried + (event.attempt == 2),
                first_at_us=at_us if units.first_at_us is None else units.first_at_us,
            )
        case UnitAction():
            return _at_work(units, event) if opens else units
        case UnitApproved():
            approved = replace(_found(units, event.unit), approved=units.approved + 1, fails_in_row=0)
            return _judged(approved, at_us)
        case UnitRejected():
            rejected = replace(_lost(units, event.unit, "rejected"), rejected=units.rejected + 1)
            return _judged(replace(rejected, fails_in_row=units.fails_in_row + 1), at_us)
        case UnitFailed():
            failed = replace(_lost(units, event.unit, "failed"), failed=units.failed + 1)
            return _judged(replace(failed, fails_in_row=units.fails_in_row + 1), at_us)
        case _:
            assert_never(event)


def action_code(action: str, attempt: int) -> str:
    """The reason code of a run whose unit is at this: AUDITING, RETRYING or GENERATING."""
    word = action.lower()
    if any(part in word for part in _CHECKS):
        return "AUDITING"
    if attempt > 1 or any(part in word for part in _AGAIN):
        return "RETRYING"
    return "GENERATING"


def units_failed(units: Units) -> int:
    """Units whose last word is no approval."""
    return len(units.lost) + units.lost_more


def units_ended(units: Units) -> int:
    return units.approved + units_failed(units)


def units_remaining(run: Run) -> int | None:
    return None if run.units_total is None else max(0, run.units_total - units_ended(run.units))


def retry_rate(run: Run) -> float:
    """Units that took more than one attempt, of all."""
    whole = run.units_total or run.units.started
    return run.units.retried / whole if whole else 0.0


def reject_rate(run: Run) -> float:
    """Rejections, of all verdicts."""
    whole = run.units.approved + run.units.rejected
    return run.units.rejected / whole if whole else 0.0


def estimated_remaining_us(run: Run) -> int | None:
    """What is left at the pace so far; None before the first unit ended, or without a plan."""
    units, remaining, ended = run.units, units_remaining(run), units_ended(run.units)
    if remaining is None or not ended or units.first_at_us is None or units.last_at_us is None:
        return None
    return max(0, units.last_at_us - units.first_at_us) * remaining // ended


def _at_work(units: Units, event: UnitStarted | UnitAction) -> Units:
    index = units.current_index if event.index is None and units.current == event.unit else event.index
    return replace(units, current=event.unit, current_index=index, current_attempt=event.attempt, action=event.action)


def _judged(units: Units, at_us: int) -> Units:
    return replace(units, current=None, action=None, last_at_us=max(at_us, units.last_at_us or 0))


def _lost(units: Units, unit: str, verdict: Literal["rejected", "failed"]) -> Units:
    if unit not in units.lost and len(units.lost) >= LOST_UNITS_MAX:
        return replace(units, lost_more=units.lost_more + 1)
    return replace(units, lost={**units.lost, unit: verdict})


def _found(units: Units, unit: str) -> Units:
    if unit not in units.lost:
        return units
    return replace(units, lost={name: verdict for name, verdict in units.lost.items() if name != unit})

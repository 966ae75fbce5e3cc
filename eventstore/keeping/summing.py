"""What is kept of a run that is trimmed: what it came to, what it spent, and how its status went, within one event."""

from typing import Any

import msgspec

from runfold.envelope import Recorded
from runfold.errors import InvalidEvent
from runfold.events import TokenUsage
from runfold.evolve import evolve_recorded
from runfold.spent import OPENING, Spender, numbers_of
from runfold.state import Run, new_run

HISTORY_KEPT_MAX = 100  # The first change of status and the newest others.
USAGE_BYTES_MAX = 24 * 1024
DAY_US = 86_400_000_000
_DAYS_KEPT_MAX = 200
_BULKY = ("step_states", "steps", "payload", "context", "prompt", "approvals", "told", "limits", "labels", "command")
"""What a summary that is too long for an event leaves out, in this order."""
_encode = msgspec.json.Encoder().encode

Spent = dict[tuple[int, str, str, str], list[int]]
"""(day, model, provider, step) → the numbers of `runfold.spent`."""


class Summing:
    """A run on its way through its events, to its summary."""

    def __init__(self, run_id: str) -> None:
        self.run: Run = new_run(run_id)
        self._when: dict[str, Any] = {"started_at_us": None}
        self._history: list[list[Any]] = []
        self._spender = Spender(turns={}, steps=[])
        self._spent: Spent = {}

    def add(self, recorded: Recorded) -> None:
        before, self.run = self.run, evolve_recorded(self.run, recorded)
        if self.run.status != before.status:
            changed = [recorded.position, before.status, self.run.status, self.run.reason_code]
            self._history.append([*changed, recorded.actor, recorded.at_us])
            if len(self._history) > HISTORY_KEPT_MAX:
                del self._history[1]
        if recorded.type in OPENING or recorded.type == "token_usage":
            self._spend(recorded)
        _say_when(self._when, recorded)

    def _spend(self, recorded: Recorded) -> None:
        try:
            event = recorded.event()
        except InvalidEvent:
            event = None
        if isinstance(event, TokenUsage):
            day, step = recorded.recorded_at_us // DAY_US, self._spender.step_of(event)
            _add(self._spent, (day, event.model or "", event.provider or "", step), numbers_of(event))
        elif recorded.type in OPENING:
            self._spender.note(recorded.type, event)

    def summary(self, *, position: int, bytes_max: int) -> dict[str, Any]:
        """`usage`: rows of day, model, provider, step and numbers; `history`: rows of position, from, to, reason,
        actor, time; the run's own fold as far as there is room."""
        kept = self._when | {
            "position": position,
            "imported": self._spender.imported,
            "usage": [[*key, *numbers] for key, numbers in sorted(_fitting(self._spent).items())],
            "history": self._history,
        }
        return kept | {"run": _short(self.run, bytes_max - len(_encode(kept)))}


def _fitting(spent: Spent) -> Spent:
    """The sums as finely as there is room for: without steps, then without models, then of the newest days alone."""
    for fields in (4, 3, 1):
        coarse: Spent = {}
        for key, numbers in spent.items():
            _add(coarse, (*key[:fields], *("", "", "", "")[fields:]), numbers)
        if len(_encode([[*key, *numbers] for key, numbers in coarse.items()])) <= USAGE_BYTES_MAX:
            return coarse
    last: Spent = {}
    first_kept = sorted({key[0] for key in spent})[-_DAYS_KEPT_MAX:][0]
    for key, numbers in spent.items():
        _add(last, (max(key[0], first_kept), "", "", ""), numbers)
    return last


def _add(spent: Spent, key: tuple[Any, ...], numbers: Any) -> None:
    known = spent.setdefault((key[0], key[1], key[2], key[3]), [0] * len(numbers))
    known[:] = [had + more for had, more in zip(known, numbers, strict=True)]


def _say_when(when: dict[str, Any], recorded: Recorded) -> None:
    """What statistics over all runs need of one that is gone."""
    if recorded.type == "run_queued":
        when["queued_recorded_at_us"] = recorded.recorded_at_us
    elif recorded.type == "run_started" and when["started_at_us"] is None:
        when["started_at_us"] = recorded.at_us
    elif recorded.type in ("run_completed", "run_failed", "run_cancelled"):
        when |= {"ended_recorded_at_us": recorded.recorded_at_us, "ended_at_us": recorded.at_us}
        when["outcome"] = recorded.type.removeprefix("run_")


def _short(run: Run, bytes_max: int) -> dict[str, Any]:
    """The run's fold as far as there is room."""
    summary: dict[str, Any] = msgspec.to_builtins(run)
    for name in _BULKY:
        if len(_encode(summary)) <= bytes_max:
            break
        del summary[name]
    return summary

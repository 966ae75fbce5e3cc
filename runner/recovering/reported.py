"""Ends reported runs whose reporter fell silent, and what was asked of one and never answered.

A reporter is heard by what it reports and by its heartbeats. Silence is counted by this process alone, from its start:
a server that was down has heard nobody, and that is no reporter's fault.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eventstore.contract import Presence
from eventstore.ledger import Ledger
from runfold.commands import Command, LoseClaim, Paused
from runfold.errors import Damaged, NotFound, Refused
from runfold.state import Run

ANSWER_SECONDS = 5.0  # Beside the run's own grace: so long a request to stop, pause or cancel may stay open.
REQUESTED = frozenset({"pausing", "cancelling", "stopping"})


@dataclass
class _Heard:
    version: int
    status: str | None
    heard_at: float
    asked_at: float


class Reporters:
    """Whom we have heard, and when."""

    def __init__(
        self, ledger: Ledger, *, presence: Presence | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`presence`: what other servers have heard; `now` counts seconds and never goes back."""
        self._ledger = ledger
        self._presence = presence
        self._now = now
        self._heard: dict[str, _Heard] = {}

    async def renew(self, run: Run) -> None:
        """A heartbeat: the reporter is there, though it has nothing to report."""
        self._hear(run)
        self._heard[run.run_id].heard_at = self._now()
        if self._presence is not None:
            await self._presence.beat(_name(run))

    async def end_overdue(self, active: Iterable[Run]) -> list[str]:
        """End what is overdue among the runs that do not rest now; the ids of those that were."""
        runs = [run for run in active if not run.is_driven and run.lease_seconds is not None]
        for run in runs:
            self._hear(run)
        known = {run.run_id for run in runs}
        self._heard = {run_id: heard for run_id, heard in self._heard.items() if run_id in known}
        overdue = [run for run in runs if self._overdue(run)]
        return [
            run.run_id for run in overdue if not await self._is_heard_elsewhere(run) and await self._end(run.run_id)
        ]

    async def _is_heard_elsewhere(self, run: Run) -> bool:
        if self._presence is None or run.status in REQUESTED or not await self._presence.is_alive(_name(run)):
            return False
        self._heard[run.run_id].heard_at = self._now()
        return True

    def _hear(self, run: Run) -> None:
        now = self._now()
        heard = self._heard.get(run.run_id)
        if heard is None:
            self._heard[run.run_id] = _Heard(version=run.version, status=run.status, heard_at=now, asked_at=now)
            return
        if run.version > heard.version:
            heard.version, heard.heard_at = run.version, now
        if run.status != heard.status:
            heard.status, heard.asked_at = run.status, now

    def _overdue(self, run: Run) -> Command | None:
        heard = self._heard[run.run_id]
        silent = self._now() - heard.heard_at
        if run.status in REQUESTED and self._now() - heard.asked_at > run.grace_seconds + ANSWER_SECONDS:
            if run.status == "pausing":
                return Paused(reason="its reporter did not answer")
            return LoseClaim(claim=0, reason="its reporter did not answer")
        if run.lease_seconds is not None and silent > run.lease_seconds:
            return LoseClaim(claim=0, reason=f"its reporter was silent for {silent:.0f} s")
        return None

    async def _end(self, run_id: str) -> bool:
        try:
            # Views that are behind know nothing of what was reported since.
            run = await self._ledger.state(run_id)
            self._hear(run)
            command = None if run.is_resting else self._overdue(run)
            if command is None:
                return False
            executed = await self._ledger.execute(run.run_id, command, actor="system", tenant=run.tenant)
        except (Refused, NotFound, Damaged):
            return False  # It has ended meanwhile, by its own reporter, or nothing follows from what was altered.
        return bool(executed.events)


def _name(run: Run) -> str:
    return f"reporter of {run.run_id}"

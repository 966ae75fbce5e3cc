"""Keeps what no command of a run itself keeps: budgets that many share, time that passes in silence, old questions.

It remembers nothing. What is to be done follows from the folds and the clock alone, so another process goes on where
this one ended, and asking twice does nothing twice.
"""

import time
from collections.abc import Callable, Iterable

import structlog

from eventstore.ledger import Ledger
from projections.spending import Left, no_budgets
from runfold.commands import Budget, CheckLimits
from runfold.decide import decide
from runfold.errors import Damaged, NotFound, Refused
from runfold.state import Run

LOOK_SECONDS = 0.5  # Whoever is to be stopped is stopped within a second of the breach.
_SPENDING = frozenset({"running", "pausing"})

logger = structlog.get_logger()


class Reactor:
    def __init__(
        self,
        ledger: Ledger,
        *,
        left: Left = no_budgets,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`left` tells the budgets of a run; `now_us` is the time of day, which deadlines are written in."""
        self._ledger, self._left, self._now_us = ledger, left, now_us

    async def look(self, active: Iterable[Run]) -> list[Run]:
        """Tell, warn, ask or stop where it is due among the runs that do not rest; those runs as they now are."""
        changed: list[Run] = []
        known: dict[tuple[str, str | None], tuple[Budget, ...]] = {}
        for run in active:
            if run.driver == "imported" or run.is_resting:
                continue
            whose = run.tenant, run.workflow
            # What waits spends nothing; it is told when it starts something.
            if run.status in _SPENDING and whose not in known:
                known[whose] = await self._left(run)
            command = self._due(run, known.get(whose, ()) if run.status in _SPENDING else ())
            if command is None:
                continue
            try:
                executed = await self._ledger.execute(run.run_id, command, actor="system", tenant=run.tenant)
            except (Refused, NotFound, Damaged):
                continue  # It has ended meanwhile, or nothing follows from what was altered.
            if executed.events:
                changed.append(executed.run)
                logger.info("limits kept", run_id=run.run_id, status=executed.run.status)
        return changed

    def _due(self, run: Run, budgets: tuple[Budget, ...]) -> CheckLimits | None:
        """Decided here first, on what the views know: most runs need nothing, and the ledger is not asked for them."""
        command = CheckLimits(budgets=budgets)
        return command if decide(run, command, self._now_us()) else None

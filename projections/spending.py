"""What is left of the budgets that many runs share: added up from the usage view, for who starts or watches a run."""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from eventstore.sqlite3_module import sqlite3
from projections.service import ViewService
from runfold.budgets import BudgetRule, first_day, rules_for
from runfold.commands import Budget
from runfold.errors import InvalidSetting
from runfold.state import Run

Left: TypeAlias = Callable[[Run], Awaitable[tuple[Budget, ...]]]


def budgets_of(
    connection: sqlite3.Connection, rules: Sequence[BudgetRule], *, tenant: str, workflow: str | None, now_us: int
) -> tuple[Budget, ...]:
    """Every budget that such a run draws on, with what is spent of it; imported runs have spent none of it."""
    found: list[Budget] = []
    for rule in rules_for(rules, tenant=tenant, workflow=workflow):
        cost_micros, tokens = connection.execute(
            """SELECT COALESCE(sum(cost_micros), 0), COALESCE(sum(input_tokens + output_tokens), 0) FROM usage
            WHERE NOT imported AND (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR workflow = ?2)
            AND (?3 IS NULL OR day >= ?3)""",
            (
                tenant if rule.scope == "tenant" else None,
                workflow if rule.scope == "workflow" else None,
                first_day(rule.per, now_us),
            ),
        ).fetchone()
        found.append(
            Budget(
                limit=rule.limit,
                scope=rule.scope,
                threshold=rule.threshold,
                actual=cost_micros / 1_000_000 if rule.limit == "cost" else tokens,
                on_exceed=rule.on_exceed,
                on_unknown_price=rule.on_unknown_price,
            )
        )
    return tuple(found)


async def no_budgets(run: Run) -> tuple[Budget, ...]:
    """Nobody has set a budget."""
    return ()


class Spending:
    """The budgets of a `runfold.toml` that may change while we look; a broken one leaves those that stood."""

    def __init__(
        self,
        views: ViewService,
        rules: Callable[[], Sequence[BudgetRule]],
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._views, self._ask, self._now_us = views, rules, now_us
        self._rules: Sequence[BudgetRule] = ()

    async def left(self, run: Run) -> tuple[Budget, ...]:
        """What the run may still draw on, as of the last acknowledged append."""
        # A slip of the pen must not take the budgets away; whoever starts a workflow is told of it.
        with suppress(InvalidSetting):
            self._rules = self._ask()
        if not self._rules:
            return ()
        now_us = self._now_us()
        found, _ = await self._views.query(
            budgets_of, self._rules, tenant=run.tenant, workflow=run.workflow, now_us=now_us
        )
        return found

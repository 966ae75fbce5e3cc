"""What is left of the budgets that many runs share: added up from the usage view, for who starts or watches a run."""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from eventstore.ledger import Ledger
from eventstore.sqlite3_module import sqlite3
from runfold.budgets import EACH, BudgetRule, Period, Scope, first_day, rules_for
from runfold.commands import Budget, CheckLimits, Observe
from runfold.errors import InvalidSetting
from runfold.events import StepStarted, TurnStarted
from runfold.limits import OnExceed
from runfold.state import Run

if TYPE_CHECKING:
    from projections.service import ViewService

_STARTS = frozenset({StepStarted, TurnStarted})
NAMES_MAX = 100  # Workflows or tenants that one `*` is shown for.
Left: TypeAlias = Callable[[Run], Awaitable[tuple[Budget, ...]]]


class BudgetItem(msgspec.Struct, frozen=True, kw_only=True):
    """One budget as it stands now; cost is in dollars. `name` is the workflow or the tenant, empty for the day."""

    scope: Scope
    name: str
    per: Period
    limit: str
    threshold: float
    spent: float
    remaining: float
    on_exceed: OnExceed


class BudgetList(msgspec.Struct, frozen=True, kw_only=True):
    items: list[BudgetItem]
    total: int
    next_cursor: str | None = None


def list_budgets(
    connection: sqlite3.Connection, rules: Sequence[BudgetRule], *, tenant: str | None, now_us: int
) -> BudgetList:
    """The budgets that a tenant's runs draw on, of all tenants where it is None; `*` as each that has spent of it."""
    items: list[BudgetItem] = []
    for rule in rules:
        if rule.scope == "tenant" and tenant is not None and rule.name not in (tenant, EACH):
            continue
        for name in _names(connection, rules, rule, tenant):
            spent = _spent(connection, rule, name, now_us)
            items.append(
                BudgetItem(
                    scope=rule.scope,
                    name=name,
                    per=rule.per,
                    limit=rule.limit,
                    threshold=rule.threshold,
                    spent=spent,
                    remaining=max(0.0, round(rule.threshold - spent, 6)),
                    on_exceed=rule.on_exceed,
                )
            )
    return BudgetList(items=items, total=len(items))


def _names(
    connection: sqlite3.Connection, rules: Sequence[BudgetRule], rule: BudgetRule, tenant: str | None
) -> list[str]:
    if rule.name != EACH:
        return [rule.name]
    own = {it.name for it in rules if it.scope == rule.scope}
    # The column is one of two words of ours.
    rows = connection.execute(
        f"""SELECT DISTINCT {rule.scope} FROM usage WHERE NOT imported AND {rule.scope} != ''
        AND (?1 IS NULL OR tenant = ?1) ORDER BY 1 LIMIT {NAMES_MAX}""",  # noqa: S608
        (tenant,),
    ).fetchall()
    return [name for (name,) in rows if name not in own]


def budgets_of(
    connection: sqlite3.Connection, rules: Sequence[BudgetRule], *, tenant: str, workflow: str | None, now_us: int
) -> tuple[Budget, ...]:
    """Every budget that such a run draws on, with what is spent of it; imported runs have spent none of it."""
    found: list[Budget] = []
    for rule in rules_for(rules, tenant=tenant, workflow=workflow):
        name = {"tenant": tenant, "workflow": workflow or "", "day": ""}[rule.scope]
        found.append(
            Budget(
                limit=rule.limit,
                scope=rule.scope,
                threshold=rule.threshold,
                actual=_spent(connection, rule, name, now_us),
                on_exceed=rule.on_exceed,
                on_unknown_price=rule.on_unknown_price,
            )
        )
    return tuple(found)


def _spent(connection: sqlite3.Connection, rule: BudgetRule, name: str, now_us: int) -> float:
    cost_micros, tokens = connection.execute(
        """SELECT COALESCE(sum(cost_micros), 0), COALESCE(sum(input_tokens + output_tokens), 0) FROM usage
        WHERE NOT imported AND (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR workflow = ?2)
        AND (?3 IS NULL OR day >= ?3)""",
        (
            name if rule.scope == "tenant" else None,
            name if rule.scope == "workflow" else None,
            first_day(rule.per, now_us),
        ),
    ).fetchone()
    return cost_micros / 1_000_000 if rule.limit == "cost" else float(tokens)


def may_start(reported: Observe) -> bool:
    """Whether the report starts a turn or a step."""
    return not _STARTS.isdisjoint(map(type, reported.events))


async def keep_budgets(ledger: Ledger, left: Left, run: Run, reported: Observe) -> None:
    """Before a report that starts something: a budget that is used up stops the run or asks, and so refuses the start.

    What is reported without a start is a fact, and is taken whatever was spent. Raises RunfoldError.
    """
    if run.is_final or run.driver == "imported" or not may_start(reported):
        return
    if budgets := await left(run):
        await ledger.execute(run.run_id, CheckLimits(budgets=budgets), actor="system", tenant=run.tenant)


async def no_budgets(run: Run) -> tuple[Budget, ...]:
    """Nobody has set a budget."""
    return ()


class Spending:
    """The budgets of a `runfold.toml` that may change while we look; a broken one leaves those that stood."""

    def __init__(
        self,
        views: "ViewService",
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
        found, _ = await self._views.query_whole(
            budgets_of, self._rules, tenant=run.tenant, workflow=run.workflow, now_us=now_us
        )
        return found

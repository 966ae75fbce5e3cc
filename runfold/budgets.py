"""Budgets: what all runs of a workflow, of a tenant, or of a day may spend together, as `runfold.toml` says it.

A budget is no limit of a run: what is left of it is not in the run's events, so whoever starts something brings it.
"""

import datetime
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import msgspec

from runfold.errors import BadRequest, InvalidSetting
from runfold.events import Json
from runfold.limits import OnExceed, parse_limits
from runfold.toml_lines import line_of

Scope: TypeAlias = Literal["workflow", "tenant", "day"]
Period: TypeAlias = Literal["day", "month", "ever"]

LIMITS = ("cost", "tokens")  # What can be added up over runs.
EACH = "*"  # The name that stands for each one that has no budget of its own.
BUDGETS_MAX = 200
_KEYS = frozenset({"cost", "cost_usd", "tokens", "per", "on_unknown_price"})
_DAY_US = 86_400_000_000


class BudgetRule(msgspec.Struct, frozen=True, kw_only=True):
    """One budget; cost is in dollars. `name` is the workflow or the tenant, empty for the day of everybody."""

    scope: Scope
    limit: str
    threshold: float
    name: str = ""
    per: Period = "ever"
    on_exceed: OnExceed = "stop"
    on_unknown_price: OnExceed = "stop"


def parse_budgets(text: str, *, file: str = "runfold.toml") -> tuple[BudgetRule, ...]:
    """The budgets of a `runfold.toml`. Raises InvalidSetting, which names the file, the key and the line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"`{file}` is not TOML: {error}", hint="correct that line") from error
    found: list[BudgetRule] = []
    path: tuple[str, ...] = ("budgets",)
    try:
        for scope, table in _table(document.get("budgets", {})).items():
            path = ("budgets", scope)
            if scope not in get_args(Scope):
                raise BadRequest("is not known", hint=f"known are {', '.join(get_args(Scope))}")
            tables = {"": table} if scope == "day" else _table(table)
            for name, said in tables.items():
                path = ("budgets", scope, name) if name else ("budgets", scope)
                found += _rules(cast("Scope", scope), name, _table(said))
        if len(found) > BUDGETS_MAX:
            path = ("budgets",)
            raise BadRequest(f"are more than {BUDGETS_MAX}", hint="leave some out")
    except BadRequest as error:
        where = f"`{file}` line {line_of(text, path)}: `{'.'.join(path)}`"
        hint = error.hint or "`runfold check` says when it is right"
        raise InvalidSetting(f"{where} {error.message}", hint=hint) from error
    return tuple(found)


def rules_for(rules: Sequence[BudgetRule], *, tenant: str, workflow: str | None) -> tuple[BudgetRule, ...]:
    """The budgets that a run of this tenant and workflow draws on; a name of its own outweighs `*`."""
    names = {"tenant": tenant, "workflow": workflow, "day": ""}
    own = {rule.scope for rule in rules if rule.name == names[rule.scope]}
    return tuple(
        rule
        for rule in rules
        if rule.name == names[rule.scope]
        or (rule.name == EACH and rule.scope not in own and names[rule.scope] is not None)
    )


def first_day(per: Period, now_us: int) -> int | None:
    """The first day of UTC, counted from 1970, whose spending counts; None is all of them."""
    today = now_us // _DAY_US
    match per:
        case "day":
            return today
        case "month":
            date = datetime.date(1970, 1, 1) + datetime.timedelta(days=today)
            return today - date.day + 1
        case _:
            return None


def _rules(scope: Scope, name: str, table: Mapping[str, Any]) -> list[BudgetRule]:
    if unknown := sorted(set(table) - _KEYS):
        known = "cost_usd, tokens, on_unknown_price" + ("" if scope == "day" else ", per")
        raise BadRequest(f"has `{unknown[0][:80]}`, which is not known", hint=f"known are {known}")
    per: Any = table.get("per", "day" if scope == "day" else "ever")
    if per not in get_args(Period) or (scope == "day" and per != "day"):
        raise BadRequest(f"has `per = {per!r}`", hint="it is `day`, `month` or `ever`; that of a day is `day`")
    limits: dict[str, Json] = {key: value for key, value in table.items() if key != "per"}
    parsed = parse_limits(limits)
    if not parsed:
        raise BadRequest("says no amount", hint='write `cost_usd = 20.0` or `tokens = "5M"`')
    unknown_price: Any = table.get("on_unknown_price", "stop")
    return [
        BudgetRule(
            scope=scope,
            name=name,
            limit=limit.limit,
            threshold=limit.threshold,
            per=per,
            on_exceed=limit.on_exceed,
            on_unknown_price=unknown_price,
        )
        for limit in parsed
    ]


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("is not a table", hint="write `[budgets.day]` and `cost_usd = 20.0` below it")
    return cast("dict[str, Any]", value)

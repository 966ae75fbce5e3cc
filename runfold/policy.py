"""A policy: limits of every run, of the runs of a workflow, and of what they spend together, as a file says them."""

import tomllib
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from runfold.budgets import BudgetRule, parse_budgets
from runfold.errors import BadRequest, InvalidSetting
from runfold.events import Json
from runfold.limits import parse_limits, with_new
from runfold.toml_lines import line_of


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """`workflows` holds what counts for the runs of each beside `limits`."""

    limits: dict[str, Json] = {}
    workflows: dict[str, dict[str, Json]] = {}
    budgets: tuple[BudgetRule, ...] = ()

    def limits_of(self, workflow: str | None) -> dict[str, Json]:
        return with_new(self.limits, self.workflows.get(workflow or "", {}))


def parse_policy(text: str, *, file: str = "the file") -> Policy:
    """`[limits]`, `[workflow.NAME.limits]` and `[budgets]`; a `runfold.toml` is one too. Raises InvalidSetting."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"`{file}` is not TOML: {error}", hint="correct that line") from error
    path: tuple[str, ...] = ("limits",)
    workflows: dict[str, dict[str, Json]] = {}
    try:
        limits = _checked(document.get("limits", {}))
        for name, table in _table(document.get("workflow", {})).items():
            path = ("workflow", name)
            workflows[name] = _checked(_workflow_limits(_table(table)))
    except BadRequest as error:
        where = f"`{file}` line {line_of(text, path)}: `{'.'.join(path)}`"
        raise InvalidSetting(f"{where}: {error.message}", hint=error.hint) from error
    policy = Policy(limits=limits, workflows=workflows, budgets=parse_budgets(text, file=file))
    if not (limits or policy.budgets or any(workflows.values())):
        hint = "write `[limits]` and `cost_usd = 1.0`, `[workflow.NAME.limits]`, or `[budgets.day]`"
        raise InvalidSetting(f"`{file}` says no limits", hint=hint)
    return policy


def _workflow_limits(table: Mapping[str, Any]) -> dict[str, Json]:
    """A workflow's own limits, and those of its steps by the names that a run's limits have for them."""
    listed: object = table.get("steps", [])
    steps = [_table(step) for step in cast("list[object]", listed)] if isinstance(listed, list) else []
    return {
        **_table(table.get("limits", {})),
        **{
            f"step:{step.get('id')}:{name}": value
            for step in steps
            for name, value in _table(step.get("limits", {})).items()
        },
    }


def _checked(table: object) -> dict[str, Json]:
    limits = _table(table)
    parse_limits(limits)
    return limits


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("is not a table", hint="write `[limits]` and `cost_usd = 1.0` below it")
    return cast("dict[str, Any]", value)

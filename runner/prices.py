"""What tokens cost, where the price table is installed and knows the model; an unknown price is none, never 0."""

import importlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

from runfold.commands import Budget
from runfold.errors import NotAllowed
from runfold.events import Json, RunQueued, StepSpec, TokenUsage
from runfold.limits import parse_limits
from runner.formats.choosing import format_of_command
from runner.formats.contract import Format

MODEL_CHARACTERS_MAX = 200


def priced(usage: TokenUsage, *, model: str | None, provider: str | None) -> TokenUsage:
    """The usage with its model and cost; what the agent said itself of either is kept."""
    model = usage.model or model
    usage = msgspec.structs.replace(usage, model=model)
    if usage.cost_micros is not None or not model or len(model) > MODEL_CHARACTERS_MAX:
        return usage
    table, source = _table()
    if table is None:
        return usage
    counted = table.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    try:
        cost: Decimal = table.calc_price(counted, model_ref=model, provider_id=usage.provider or provider).total_price
    except (LookupError, ValueError):
        return usage
    return msgspec.structs.replace(usage, cost_micros=max(0, round(cost * 1_000_000)), price_source=source)


def check_order(order: RunQueued, budgets: Sequence[Budget] = ()) -> None:
    """`check_price` of a run that is about to be opened. Raises NotAllowed."""
    check_price(
        order.command,
        order.limits,
        format_name=order.format,
        model=order.model,
        steps=order.steps,
        budgets=budgets,
    )


def check_price(
    argv: Sequence[str],
    limits: Mapping[str, Json],
    *,
    format_name: str | None,
    model: str | None,
    steps: Sequence[StepSpec] = (),
    budgets: Sequence[Budget] = (),
) -> None:
    """A cost limit needs a price: refuse where none can come, before anything is spent. Raises NotAllowed.

    Where it may come, or nobody can know, what follows usage without a price is `on_unknown_price`. A limit of the run,
    and a budget of money, count for every command of it; a step's own limit for that step.
    """
    whole = any(it.limit == "cost" and "warn" not in (it.on_exceed, it.on_unknown_price) for it in budgets)
    whole = whole or _stands(limits, "run")
    commands = [(argv, "")] if whole else []
    for step in steps:
        if step.command and (whole or _stands(step.limits, f"step:{step.id}") or _is_given(limits, step.id)):
            commands.append((step.command, f" of step {step.id}"))
    for command, whose in commands:
        known = format_of_command(command, format_name)
        if known is not None and not known.prints_cost:
            _check_format(known, whose, model)


def _check_format(known: Format, whose: str, model: str | None) -> None:
    if not known.prints_model and not model:
        raise NotAllowed(
            f"a cost limit{whose} needs a price, and {known.name} prints neither its cost nor its model",
            hint="name the model with `--model` or as `model` of the workflow, or take `--limit tokens=…` instead",
        )
    if _table()[0] is None:
        raise NotAllowed(
            f"a cost limit{whose} needs a price, {known.name} prints none, and no price table is installed",
            hint="`pip install genai-prices`, or take `--limit tokens=…` instead",
        )


def _stands(limits: Mapping[str, Json], scope: str) -> bool:
    """Whether spending money would stop something, and not only be told."""
    parsed = parse_limits(limits, scope=scope)
    costs = any(it.limit == "cost" and it.scope == scope and it.on_exceed != "warn" for it in parsed)
    return costs and limits.get("on_unknown_price", "stop") != "warn"


def _is_given(limits: Mapping[str, Json], step: str) -> bool:
    """A limit of the step that came with the run."""
    scope = f"step:{step}"
    return any(it.scope == scope and it.limit == "cost" and it.on_exceed != "warn" for it in parse_limits(limits))


@cache
def _table() -> tuple[Any, str]:
    """The table and its version; imported only when there is something to price, because that takes a while."""
    try:
        table = importlib.import_module("genai_prices")
    except ImportError:
        return None, ""
    from importlib.metadata import version

    return table, f"genai-prices {version('genai-prices')}"

"""What tokens cost, where the price table is installed and knows the model; an unknown price is none, never 0."""

import importlib
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

from runfold.events import TokenUsage

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


@cache
def _table() -> tuple[Any, str]:
    """The table and its version; imported only when there is something to price, because that takes a while."""
    try:
        table = importlib.import_module("genai_prices")
    except ImportError:
        return None, ""
    from importlib.metadata import version

    return table, f"genai-prices {version('genai-prices')}"

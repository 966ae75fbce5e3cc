"""What a run of a workflow will take: the middle and the high end of its past runs, else the workflow's own figure."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from runfold.events import CostEstimated

_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the author of a workflow says of one run of it."""

    cost_usd: _Amount | None = None
    duration_seconds: _Amount | None = None
    tokens: _Amount | None = None


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What one completed run took; its time without pauses. None is what nobody knows."""

    cost_micros: int | None
    duration_us: int
    tokens: int


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Half of the runs took no more than `p50`, nine of ten no more than `p90`."""

    p50: float
    p90: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`basis` says where the cost comes from; null is what neither past runs nor the workflow can say.

    `runs` counts the past runs that were looked at: the newest that completed.
    """

    workflow: str
    runs: int
    basis: Literal["past_runs", "workflow", "unknown"]
    cost_usd: Spread | None
    duration_ms: Spread | None
    tokens: Spread | None


def estimate_of(workflow: str, past: Sequence[Past], figure: Figure | None = None) -> Estimate:
    """The estimate of the next run, from its past ones."""
    own = figure or Figure()
    costs = [it.cost_micros / 1_000_000 for it in past if it.cost_micros is not None]
    own_ms = None if own.duration_seconds is None else own.duration_seconds * 1_000
    return Estimate(
        workflow=workflow,
        runs=len(past),
        basis="past_runs" if costs else "unknown" if own.cost_usd is None else "workflow",
        cost_usd=_spread(costs, own.cost_usd),
        duration_ms=_spread([it.duration_us // 1_000 for it in past], own_ms),
        tokens=_spread([it.tokens for it in past if it.tokens], own.tokens),
    )


def cost_estimated(estimate: Estimate | None) -> CostEstimated | None:
    """The event that says it; None where no cost is known."""
    if estimate is None or estimate.cost_usd is None:
        return None
    past = f"p50 and p90 of {estimate.runs} past runs"
    return CostEstimated(
        low_micros=round(estimate.cost_usd.p50 * 1_000_000),
        high_micros=round(estimate.cost_usd.p90 * 1_000_000),
        basis=past if estimate.basis == "past_runs" else "the workflow's own figure",
    )


def _spread(values: Sequence[float], own: float | None) -> Spread | None:
    if not values:
        return None if own is None else Spread(p50=own, p90=own)
    ordered = sorted(values)
    # The nearest rank: a figure that one of the runs really had.
    p50, p90 = (ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.9))
    return Spread(p50=p50, p90=p90)

"""What a workflow's next run will cost and take, told before it starts here."""

from collections.abc import Callable
from pathlib import Path

from cli.screen import duration, talk
from runfold.estimates import Estimate, Figure, Spread


def estimate_here(data: Path, name: str, figure: Figure | None, *, tenant: str = "default") -> Estimate:
    """From the past runs of this data folder, else from the workflow's own figure."""
    from projections.engine.views import Views
    from projections.estimates import estimate
    from projections.runs import VIEW

    views = Views.open(data, views=(VIEW,))
    try:
        views.refresh()
        return estimate(views.connection, name, tenant=tenant, figure=figure)
    finally:
        views.close()


def tell_estimate(estimate: Estimate) -> None:
    """One line; nothing where nothing is known."""
    parts = [
        *_range(estimate.cost_usd, lambda value: f"${value:.2f}"),
        *_range(estimate.duration_ms, duration),
        *_range(estimate.tokens, lambda value: f"{value:,.0f} tokens"),
    ]
    if parts:
        own = "the workflow's own figure"
        past = "1 past run" if estimate.runs == 1 else f"{estimate.runs} past runs"
        basis = past if estimate.runs else own
        talk(f"estimate: {', '.join(parts)}, from {basis}")


def _range(spread: Spread | None, words: Callable[[float], str]) -> list[str]:
    """`$0.30 to $0.45`: what half of the runs kept to, and nine of ten."""
    if spread is None:
        return []
    low, high = words(spread.p50), words(spread.p90)
    return [low if low == high else f"{low} to {high}"]

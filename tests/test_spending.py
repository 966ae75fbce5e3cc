"""Where a run's tokens and money went: by model and by step, against their limits, on every surface."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.commands.status import status_lines
from runfold import commands as c
from runfold import events as e
from runfold.counting import MODELS_MAX, OTHER_MODELS
from runfold.markdown import markdown_report
from runfold.snapshot import Spent, snapshot
from runfold.state import Run
from tests.given import after, graph, observe, reported
from tests.served import serving


def usage(model: str | None, cost: float | None, *, step: str | None = None, tokens: int = 10) -> e.TokenUsage:
    micros = None if cost is None else round(cost * 1_000_000)
    return e.TokenUsage(model=model, input_tokens=tokens, cost_micros=micros, step=step)


def spent() -> Run:
    steps = (*graph("a", "b"), e.StepSpec(id="c", limits={"cost": 2}))
    return after(
        reported(steps=steps, limits={"cost": 5, "tokens": 1_000}),
        observe(usage("cheap", 0.1, step="a"), usage("dear", 0.5, step="c"), usage("dear", 0.25, step="a"),
                usage(None, None, tokens=7)),
    )  # fmt: skip


def test_a_snapshot_says_what_each_model_and_each_step_has_spent_the_dearest_first() -> None:
    found = snapshot(spent(), position=1).spending

    assert found.by_model == (
        Spent(name="dear", tokens=20, cost_usd=0.75),
        Spent(name="cheap", tokens=10, cost_usd=0.1),
        Spent(name=None, tokens=7, cost_usd=None),
    )
    assert found.by_step == (
        Spent(name="c", tokens=10, cost_usd=0.5, limit_usd=2.0),
        Spent(name="a", tokens=20, cost_usd=0.35),
    )


def test_the_screen_shows_limits_models_and_steps() -> None:
    lines = status_lines(snapshot(spent(), position=1), took_ms=1_000)

    assert "Limits       cost $0.85 of $5.00   tokens 37 of 1,000" in lines
    assert "Models       dear $0.75   cheap $0.10   not named -" in lines
    assert "Dearest      c $0.50 of $2.00   a $0.35" in lines


def test_the_report_has_the_cost_by_model_and_says_where_a_price_is_not_known() -> None:
    text = markdown_report(spent())

    assert "## Costs by model" in text
    assert "| dear | 20 | $0.75 |" in text
    assert "| not named | 7 | unknown |" in text


def test_more_models_than_anybody_has_are_added_up_as_one() -> None:
    run = after(reported(), observe(*(usage(f"m{n}", 0.01) for n in range(MODELS_MAX + 5))))

    assert len(run.models) == MODELS_MAX + 1
    assert run.models[OTHER_MODELS].tokens == 50


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["x", "y", None]), st.none() | st.integers(0, 9_000_000)), max_size=20))
def test_what_the_models_spent_is_what_the_run_spent(usages: list[tuple[str | None, int | None]]) -> None:
    events: list[Any] = [e.TokenUsage(model=name, input_tokens=3, cost_micros=cost) for name, cost in usages]
    run = after(reported(), *([c.Observe(events=tuple(events))] if events else []))

    assert sum(it.tokens for it in run.models.values()) == run.tokens.total
    assert sum(it.cost_micros or 0 for it in run.models.values()) == (run.cost_micros or 0)
    assert sum(it.unpriced for it in run.models.values()) == run.unpriced


@pytest.mark.parametrize("path", ["", "/status"])
async def test_spending_is_live_over_http(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as served:
        run_id = await served.open_run(limits={"cost": 1})
        seen: list[Any] = []
        for _ in range(2):
            usage_event = {"type": "token_usage", "data": {"model": "m", "input_tokens": 5, "cost_micros": 200_000}}
            await served.report(run_id, usage_event)
            body = await (await served.ask("GET", f"/api/runs/{run_id}{path}")).json()
            seen.append((body["limits"]["cost"]["spent"], body["spending"]["by_model"][0]["cost_usd"]))

    assert seen == [(0.2, 0.2), (0.4, 0.4)]

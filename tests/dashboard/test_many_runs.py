"""A list of many runs: only rows in sight are drawn, and the server filters, sorts and searches them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from bench.filling import fill, run_name
from projections.engine.rebuilding import rebuild
from runfold.events import Event, RunCompleted, RunFailed, RunQueued, RunStarted, TokenUsage
from tests.dashboard.screen import Screen
from tests.served import serving

pytestmark = pytest.mark.slow
RUNS = 2_000  # `bench/page.py` looks at a hundred thousand.
DEAR = 777


def many() -> Iterator[tuple[str, Event]]:
    for number in range(RUNS):
        run_id = run_name(number)
        yield run_id, RunQueued(driver="here", workflow=f"w{number % 4}", title=f"run {number}", labels={"n": "even"})
        yield run_id, RunStarted()
        yield run_id, TokenUsage(model="m", input_tokens=9, cost_micros=5_000_000 if number == DEAR else number)
        yield (
            run_id,
            RunFailed(reason_code="EXIT_NONZERO") if number % 10 == 0 else RunCompleted(reason_code="EXIT_ZERO"),
        )


@pytest_asyncio.fixture(loop_scope="session")
async def filled(page: Page, tmp_path: Path) -> AsyncIterator[Screen]:
    # It opens the log in a loop of its own.
    await asyncio.to_thread(fill, tmp_path, many())
    await asyncio.to_thread(rebuild, tmp_path)
    async with serving(tmp_path) as served:
        screen = Screen(page, served)
        await screen.log_in()
        yield screen
        assert screen.problems == []


async def test_of_many_runs_those_in_sight_are_drawn_and_the_server_filters_sorts_and_searches(filled: Screen) -> None:
    page, rows = filled.page, filled.page.locator("tr.run")

    await filled.show("/runs")
    await expect(page.get_by_text("2,000 in all")).to_be_visible()
    for _ in range(4):
        last = await rows.last.get_attribute("data-run")
        await page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        await expect(rows.last).not_to_have_attribute("data-run", last or "")
        assert await rows.count() < 60
    assert f"run {RUNS - 1}" not in (await page.locator("tbody").text_content() or "")

    await filled.show("/runs?status=failed&workflow=w2")
    await expect(page.get_by_text("100 that fit")).to_be_visible()
    await page.get_by_label("Search").fill("run 1770")
    await page.get_by_label("Search").press("Enter")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("run 1770")
    await filled.show("/runs")
    await page.get_by_role("button", name="Cost").click()
    await expect(rows.first).to_contain_text(f"run {DEAR}")

"""The pages about all runs: who did what, what was spent, how the server stands."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.dashboard.screen import Screen
from tests.logs import DAY_US
from tests.served import OTHER, Served, note, serving

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(loop_scope="session")
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """All that is recorded is of one day, within the last seven: of yesterday noon."""
    noon_us = time.time_ns() // 1000 // DAY_US * DAY_US - DAY_US // 2
    async with serving(tmp_path, now_us=lambda: noon_us) as served:
        yield served


def spent(model: str, micros: int | None) -> dict[str, object]:
    return {
        "type": "token_usage",
        "data": {"model": model, "input_tokens": 1_000, "output_tokens": 10, "cost_micros": micros},
    }


async def test_the_audit_is_filtered_by_the_server_and_its_question_is_in_the_address(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="one")
    await desk.served.control(run_id, "cancel", reason="not needed")
    await desk.served.open_run(title="two")
    await desk.show("/audit")
    await expect(desk.page.locator("tbody tr").nth(3)).to_be_visible()

    await desk.page.get_by_role("textbox", name="Event").fill("run_cancelled")
    await desk.page.get_by_role("textbox", name="Event").press("Enter")

    await expect(desk.page.locator("tbody tr")).to_have_count(1)
    await expect(desk.page.locator("tbody tr")).to_contain_text(run_id)
    assert "type=run_cancelled" in desk.page.url
    await desk.page.reload()
    await expect(desk.page.locator("tbody tr")).to_have_count(1)
    await desk.page.get_by_role("link", name=run_id).click()
    await expect(desk.page.get_by_role("heading", name="one")).to_be_visible()


async def test_the_audit_goes_on_page_by_page_and_back_goes_back(desk: Screen) -> None:
    run_id = await desk.served.open_run()
    await desk.served.report(run_id, *(note(number) for number in range(70)))
    await desk.show(f"/audit?run_id={run_id}&order=asc")
    rows = desk.page.locator("tbody tr")
    await expect(rows).to_have_count(50)
    first = await rows.first.get_attribute("data-position")

    await desk.page.get_by_role("button", name="Next page").click()

    await expect(rows).to_have_count(22)
    await expect(rows.last).to_contain_text("message 69")
    await desk.page.go_back()
    await expect(rows).to_have_count(50)
    assert await rows.first.get_attribute("data-position") == first


async def test_costs_are_grouped_and_an_unknown_price_is_no_zero(desk: Screen) -> None:
    run_id = await desk.served.open_run()
    await desk.served.report(run_id, spent("dear", 3_000_000), spent("cheap", 500_000), spent("unknown", None))

    await desk.show("/costs")

    await expect(desk.page.locator("[data-key=dear]")).to_contain_text("$3.00")
    await expect(desk.page.locator("[data-key=unknown]")).to_contain_text("no price")
    await expect(desk.page.locator("tfoot")).to_contain_text("$3.50")
    await desk.page.get_by_role("button", name="Run", exact=True).click()
    await expect(desk.page.locator(f"[data-key={run_id}]")).to_contain_text("$3.50")
    assert "by=run" in desk.page.url


async def test_an_admin_sees_all_tenants_the_failure_rate_and_whether_views_keep_up(screen: Screen) -> None:
    for title, action in (("a", "complete"), ("b", "complete"), ("c", "complete"), ("d", "fail")):
        await screen.served.control(await screen.served.open_run(title=title), action)
    other = await screen.served.open_run(token=OTHER)
    await screen.served.report(other, spent("dear", 1_000_000), token=OTHER)

    await screen.show("/admin")

    await expect(screen.page.locator("dl.facts").first).to_contain_text("Failure rate25.0 %")
    await expect(screen.page.locator("[data-day]").first).to_contain_text("5")
    await expect(screen.page.locator("[data-tenant=other]")).to_contain_text("$1.00")
    await expect(screen.page.locator("[data-view=runs]")).to_contain_text("live")
    await expect(screen.page.locator("[data-server=parked]")).to_have_text("none")
    await expect(screen.page.locator("[data-server=streams]")).to_have_text("1")
    await expect(screen.page.locator("[data-proof]")).to_contain_text("Never proved so far")


async def test_an_address_that_nobody_knows_is_a_page_for_people_and_json_for_programs(desk: Screen) -> None:
    answer = await desk.page.goto(f"{desk.address}/rnus/today?x=1")
    program = await desk.served.ask("GET", "/rnus/today")

    assert answer is not None
    assert (answer.status, program.status) == (404, 404)
    await expect(desk.page.get_by_role("heading", name="There is no such page")).to_be_visible()
    await expect(desk.page.locator("main")).to_contain_text("/rnus/today")
    assert await desk.faults() == []
    await desk.page.get_by_role("link", name="Show the runs").click()
    await expect(desk.page.get_by_role("heading", name="Runs")).to_be_visible()
    assert (await program.json())["detail"] == "nothing is at `/rnus/today`"
    desk.problems.clear()  # The browser itself tells of the 404.

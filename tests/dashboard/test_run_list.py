"""The list of runs as a person sees it."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from eventstore.sqlite import SqliteLog
from projections.engine.generations import FOLD_LOCK_FILE, locked
from projections.engine.views import Views
from tests.dashboard.screen import PERSON, Screen
from tests.dashboard.stories import name, write
from tests.far_behind import NEWER, fill
from tests.served import serving
from tests.working import PATIENCE_SECONDS

pytestmark = pytest.mark.slow


async def test_a_new_user_is_told_what_to_type(screen: Screen) -> None:
    await expect(screen.page.get_by_text("runfold run -- echo hello")).to_be_visible()


async def test_a_list_that_is_still_folded_says_so_grows_by_itself_and_then_is_live(
    browser: Browser, tmp_path: Path
) -> None:
    log = await SqliteLog.open(tmp_path)
    await fill(log)
    await log.close()
    Views.open(tmp_path).close()
    with ExitStack() as held:
        held.enter_context(locked(tmp_path, FOLD_LOCK_FILE, 0))
        async with serving(tmp_path) as served, AsyncExitStack() as stack:
            context = await browser.new_context(**PERSON)
            stack.push_async_callback(context.close)
            screen = Screen(await context.new_page(), served)
            await screen.log_in()
            await expect(screen.page.get_by_text("these are not all runs yet")).to_be_visible()
            await expect(screen.page.get_by_text("No run yet")).to_have_count(0)

            held.close()

            await expect(screen.page.locator(f"[data-run={NEWER}]")).to_be_visible()
            await expect(screen.page.get_by_text("these are not all runs yet")).to_have_count(0)
            await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
            assert screen.problems == []


async def test_a_browser_without_a_session_is_asked_for_a_token(desk: Screen) -> None:
    async with desk.another(logged_in=False) as stranger:
        await stranger.show("/runs")

        await stranger.page.get_by_label("Token").fill("admin-token")
        await stranger.page.get_by_role("button", name="Log in").click()

        await expect(stranger.page.get_by_role("heading", name="Runs")).to_be_visible()


async def test_runs_are_listed_with_their_status_in_words(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="nightly build")
    await desk.served.control(run_id, "fail", reason_code="SYS_WRITE_ERROR")

    await desk.show("/runs")

    row = desk.page.locator(f"[data-run={run_id}]")
    await expect(row).to_contain_text("nightly build")
    await expect(row).to_contain_text("Failed")
    await expect(row).to_contain_text("sys write error")


async def test_a_row_on_screen_changes_by_itself_and_new_runs_wait_to_be_asked_for(desk: Screen) -> None:
    first = await desk.served.open_run(title="first")
    await desk.show("/runs")
    await expect(desk.page.locator(f"[data-run={first}]")).to_contain_text("Running")
    await expect(desk.page.get_by_text("Live", exact=True)).to_be_visible()

    second = await desk.served.open_run(title="second")
    await desk.served.control(first, "complete")

    await expect(desk.page.locator(f"[data-run={first}]")).to_contain_text("Completed")
    await expect(desk.page.locator(f"[data-run={second}]")).to_have_count(0)
    await desk.page.get_by_role("button", name="1 new run").click()
    await expect(desk.page.locator(f"[data-run={second}]")).to_be_visible()


async def given(screen: Screen) -> dict[str, str]:
    """Three runs that differ in everything that a list is filtered and sorted by."""
    runs: dict[str, str] = {}
    for title, workflow, action, cost in (
        ("cheap", "nightly", "complete", 1_000),
        ("dear", "nightly", "fail", 9_000_000),
        ("plain", "release", "", 500_000),
    ):
        runs[title] = await screen.served.open_run(title=title, workflow=workflow, labels={"team": f"of-{title}"})
        usage = {"model": "m", "input_tokens": 1, "cost_micros": cost}
        await screen.served.report(runs[title], {"type": "token_usage", "data": usage})
        if action:
            await screen.served.control(runs[title], action)
    return runs


FILTERS = {
    "q=dear": ["dear"],
    "q=of-plain": ["plain"],
    "workflow=nightly": ["cheap", "dear"],
    "label=team%3Dof-cheap": ["cheap"],
    "label=team": ["cheap", "dear", "plain"],
    "status=failed": ["dear"],
    "status=failed,running": ["dear", "plain"],
    "created_after=2020-01-01": ["cheap", "dear", "plain"],
    "created_before=2020-01-01": [],
    "workflow=nightly&status=completed": ["cheap"],
}


async def test_filters_and_sort_are_in_the_address(screen: Screen) -> None:
    runs = await given(screen)
    rows = screen.page.locator("tr.run")
    for query, titles in FILTERS.items():
        await screen.show(f"/runs?{query}")
        await expect(screen.page.get_by_text(f"{len(titles)} that fit")).to_be_visible()
        shown = {await row.get_attribute("data-run") for row in await rows.all()}
        assert shown == {runs[title] for title in titles}, query

    await screen.show("/runs")
    for column, first, last in (("Started", "plain", "cheap"), ("Cost", "dear", "cheap"), ("Duration", None, None)):
        await screen.page.get_by_role("button", name=column).click()
        if first and last:
            order = (last, first) if column == "Started" else (first, last)
            await expect(rows.first).to_have_attribute("data-run", runs[order[0]])
            await expect(rows.last).to_have_attribute("data-run", runs[order[1]])
    await screen.page.get_by_role("button", name="Status").click()
    assert "sort=status" in screen.page.url
    sort = await screen.page.get_by_role("columnheader", name="Status").get_attribute("aria-sort")
    assert sort == "descending"
    await screen.page.get_by_role("button", name="Failed").click()
    await expect(rows).to_have_count(1)
    await screen.page.reload()
    await expect(rows).to_have_attribute("data-run", runs["dear"])
    assert {"sort=status", "status=failed"} <= set(screen.page.url.partition("?")[2].split("&"))
    await screen.page.get_by_role("button", name="Clear").click()
    await expect(rows).to_have_count(3)
    assert "?" not in screen.page.url


async def test_a_long_list_is_read_on_while_it_is_scrolled_and_draws_only_rows_in_sight(desk: Screen) -> None:
    for number in range(130):
        await write(desk.served.log, name(number + 1), 10_000 - number, [], title=f"run {number}", workflow="long")
    await desk.show("/runs?workflow=long")
    rows = desk.page.locator("tr.run")
    await expect(rows.first).to_contain_text("run 129")
    assert await rows.count() < 50

    last = desk.page.locator(f"[data-run={name(1)}]")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await last.count():
            await desk.page.keyboard.press("End")
            await expect(desk.page.get_by_text("Reading more")).to_have_count(0)

    await expect(last).to_contain_text("run 0")
    assert await rows.count() < 50
    assert await last.get_attribute("aria-rowindex") == "131"


async def test_a_page_of_the_list_has_an_address_and_a_way_back_to_the_first(desk: Screen) -> None:
    for number in range(60):
        await write(desk.served.log, name(0x100 + number), 10_000 - number, [], title=f"run {number}", workflow="paged")

    await desk.show("/runs?workflow=paged&offset=50")

    rows = desk.page.locator("tr.run")
    await expect(rows).to_have_count(10)
    await expect(rows.first).to_contain_text("run 9")
    await desk.page.get_by_role("button", name="Shown from row 51 on").click()
    await expect(rows.first).to_contain_text("run 59")


async def test_a_list_that_fits_nothing_shows_the_question_to_type_in_a_terminal(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="there")
    await desk.show("/runs?status=failed&workflow=never")

    await expect(desk.page.get_by_text("No run fits these filters")).to_be_visible()
    await expect(desk.page.locator(".empty code")).to_have_text("runfold ps --status failed --workflow never")
    await desk.page.get_by_role("button", name="Show all runs").click()
    await expect(desk.page.locator(f"[data-run={run_id}]")).to_be_visible()

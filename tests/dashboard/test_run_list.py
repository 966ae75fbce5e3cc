"""The list of runs as a person sees it."""

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.screen import Screen
from tests.served import Served

pytestmark = pytest.mark.slow


async def test_a_new_user_is_told_what_to_type(screen: Screen) -> None:
    await expect(screen.page.get_by_text("runfold run -- echo hello")).to_be_visible()


async def test_a_browser_without_a_session_is_asked_for_a_token(served: Served, page: Page) -> None:
    await page.goto(str(served.client.make_url("/runs")))

    await page.get_by_label("Token").fill("admin-token")
    await page.get_by_role("button", name="Log in").click()

    await expect(page.get_by_role("heading", name="Runs")).to_be_visible()


async def test_runs_are_listed_with_their_status_in_words(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="nightly build")
    await screen.served.control(run_id, "fail", reason_code="SYS_WRITE_ERROR")

    await screen.show("/runs")

    row = screen.page.locator(f"[data-run={run_id}]")
    await expect(row).to_contain_text("nightly build")
    await expect(row).to_contain_text("Failed")
    await expect(row).to_contain_text("sys write error")


async def test_a_row_on_screen_changes_by_itself_and_new_runs_wait_to_be_asked_for(screen: Screen) -> None:
    first = await screen.served.open_run(title="first")
    await screen.show("/runs")
    await expect(screen.page.locator(f"[data-run={first}]")).to_contain_text("Running")
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()

    second = await screen.served.open_run(title="second")
    await screen.served.control(first, "complete")

    await expect(screen.page.locator(f"[data-run={first}]")).to_contain_text("Completed")
    await expect(screen.page.locator(f"[data-run={second}]")).to_have_count(0)
    await screen.page.get_by_role("button", name="1 new run").click()
    await expect(screen.page.locator(f"[data-run={second}]")).to_be_visible()


async def test_filters_and_sort_are_in_the_address(screen: Screen) -> None:
    failed = await screen.served.open_run(title="bad")
    await screen.served.control(failed, "fail", reason_code="SYS_WRITE_ERROR")
    await screen.served.open_run(title="good")
    await screen.show("/runs")

    await screen.page.get_by_role("button", name="Failed").click()
    await expect(screen.page.locator("tbody tr")).to_have_count(1)

    assert "status=failed" in screen.page.url
    await screen.page.reload()
    await expect(screen.page.locator("tbody tr")).to_have_count(1)

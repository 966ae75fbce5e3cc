"""The description of the API, read and tried in a browser, from this server alone."""

import re

import pytest
from playwright.async_api import Request, expect

from api.app import ROUTES
from tests.dashboard.screen import Screen

pytestmark = pytest.mark.slow
LIBRARY = "swagger-ui"


async def test_every_operation_is_listed_offline_and_can_be_tried(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="one")
    operations = screen.page.locator(".opblock")

    await screen.show("/api/docs")
    await expect(operations).to_have_count(sum(route.described for route in ROUTES))
    faults = await screen.faults()
    one = screen.page.locator("#operations-runs-list_runs")
    await one.locator(".opblock-summary").click()
    await one.get_by_role("button", name="Try it out").click()
    await one.get_by_role("button", name="Execute").click()

    await expect(one.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    await expect(one.locator(".live-responses-table")).to_contain_text(run_id)
    assert faults == []


async def test_no_other_page_loads_the_library_of_the_description(screen: Screen) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    screen.page.on("request", note)
    await screen.show("/runs")
    await expect(screen.page.get_by_role("heading", name="Runs")).to_be_visible()
    before = [address for address in asked if LIBRARY in address or "ApiDocs" in address]
    await screen.show("/api/docs")
    await expect(screen.page.locator(".opblock").first).to_be_visible()

    assert before == []
    assert any(re.search(LIBRARY, address) for address in asked)

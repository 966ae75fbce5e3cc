"""The description of the API, read and tried in a browser, from this server alone."""

import pytest
from playwright.async_api import expect

from api.app import ROUTES
from tests.dashboard.screen import Screen

pytestmark = pytest.mark.slow
LIBRARY = "swagger-ui"


async def test_every_operation_is_listed_offline_and_can_be_tried(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="one")
    operations = screen.page.locator(".opblock")
    asked: list[str] = []
    screen.page.on("request", lambda request: asked.append(request.url))
    await screen.show("/runs")
    await expect(screen.page.locator("tr.run")).to_be_visible()
    asked_before = list(asked)

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
    assert [address for address in asked_before if LIBRARY in address or "ApiDocs" in address] == []
    assert any(LIBRARY in address for address in asked)

"""The dashboard by keys alone, and in the light that a person chose."""

import pytest
from playwright.async_api import expect

from tests.dashboard.screen import Screen
from tests.served import note

pytestmark = pytest.mark.slow


async def test_a_run_is_found_opened_and_travelled_through_by_keys(screen: Screen) -> None:
    for title in ("older", "newer"):
        run_id = await screen.served.open_run(title=title)
        await screen.served.report(run_id, note(1), note(2))
    await screen.show("/audit")
    keyboard = screen.page.keyboard
    await expect(screen.page.get_by_role("heading", name="Audit")).to_be_visible()

    await keyboard.press("g")
    await keyboard.press("r")
    await expect(screen.page.get_by_role("link", name="newer")).to_be_visible()
    await keyboard.press("j")
    await keyboard.press("j")
    await expect(screen.page.get_by_role("link", name="older")).to_be_focused()
    await keyboard.press("k")
    await keyboard.press("Enter")

    await expect(screen.page.get_by_role("heading", name="newer")).to_be_visible()
    await keyboard.press("[")
    await expect(screen.page.get_by_text("Viewing the past: event 3 of 4")).to_be_visible()
    await keyboard.press("]")
    await expect(screen.page.get_by_text("Viewing the past: event 4 of 4")).to_be_visible()
    await keyboard.press("2")
    await expect(screen.page.get_by_role("tab", name="Steps")).to_have_attribute("data-state", "active")


async def test_keys_rest_while_something_is_typed_and_are_listed_on_one_overlay(screen: Screen) -> None:
    await screen.show("/runs")
    await expect(screen.page.get_by_label("Search")).to_be_visible()

    await screen.page.keyboard.press("/")
    await expect(screen.page.get_by_label("Search")).to_be_focused()
    await screen.page.keyboard.type("g a?")
    await expect(screen.page.get_by_label("Search")).to_have_value("g a?")
    await expect(screen.page.get_by_role("dialog")).to_have_count(0)
    await screen.page.get_by_role("heading", name="Runs").click()
    await screen.page.keyboard.press("Shift+?")

    await expect(screen.page.get_by_role("dialog")).to_contain_text("Go to the audit")
    assert await screen.faults() == []
    await screen.page.keyboard.press("Escape")
    await expect(screen.page.get_by_role("dialog")).to_be_hidden()


async def test_the_light_that_was_chosen_stays(screen: Screen) -> None:
    await screen.page.emulate_media(color_scheme="light")
    await screen.show("/runs")
    body = screen.page.locator("body")
    await expect(body).to_have_css("background-color", "rgb(250, 250, 250)")

    await screen.page.get_by_label("Theme").select_option("dark")

    await expect(body).to_have_css("background-color", "rgb(12, 12, 15)")
    await screen.page.reload()
    await expect(body).to_have_css("background-color", "rgb(12, 12, 15)")
    await screen.page.get_by_label("Theme").select_option("system")
    await expect(body).to_have_css("background-color", "rgb(250, 250, 250)")

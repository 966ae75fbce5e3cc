"""The dashboard by keys alone, and in the light that a person chose."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.screen import Screen
from tests.served import note

pytestmark = pytest.mark.slow
NAME_OF_FOCUS = "(at => at.getAttribute('aria-label') || at.innerText || at.placeholder || '')(document.activeElement)"

PRESS_IN_ONE = """keys => {
  for (const key of keys) document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
}"""


async def press_in_one(page: Page, keys: str) -> None:
    """One after the other with nothing between them: the page waits no longer than a second for the next."""
    await page.evaluate(PRESS_IN_ONE, keys)


async def test_a_run_is_found_opened_and_travelled_through_by_keys(desk: Screen) -> None:
    for title in ("older", "newer"):
        run_id = await desk.served.open_run(title=title)
        await desk.served.report(run_id, note(1), note(2))
    await desk.show("/audit")
    keyboard = desk.page.keyboard
    await expect(desk.page.get_by_role("heading", name="Audit")).to_be_visible()

    await press_in_one(desk.page, "gr")
    await expect(desk.page.get_by_role("link", name="newer")).to_be_visible()
    await keyboard.press("j")
    await keyboard.press("j")
    await expect(desk.page.get_by_role("link", name="older")).to_be_focused()
    await keyboard.press("k")
    await keyboard.press("Enter")

    await expect(desk.page.get_by_role("heading", name="newer")).to_be_visible()
    await keyboard.press("[")
    await expect(desk.page.get_by_text("Viewing the past: event 3 of 4")).to_be_visible()
    await keyboard.press("]")
    await expect(desk.page.get_by_text("Viewing the past: event 4 of 4")).to_be_visible()
    await keyboard.press("2")
    await expect(desk.page.get_by_role("tab", name="Steps")).to_have_attribute("data-state", "active")


async def listed(desk: Screen) -> list[str]:
    """The keys that the overlay lists."""
    await desk.page.keyboard.press("Shift+?")
    dialog = desk.page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    keys = " ".join(await dialog.locator("kbd").all_inner_texts())
    await desk.page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    return keys.split()


async def test_every_key_of_the_list_does_what_it_says(desk: Screen) -> None:
    page, pressed = desk.page, set[str]()
    run_id = await desk.served.open_run(title="by keys")
    await desk.served.report(run_id, note(1), note(2))

    async def press(*keys: str) -> None:
        pressed.update("1–9" if key.isdigit() else key for key in keys)
        for key in keys:
            await page.keyboard.press(key)

    for key, path in {"r": "runs", "a": "audit", "q": "approvals", "c": "costs", "d": "compare", "s": "admin"}.items():
        pressed.update(("g", key))
        await press_in_one(page, f"g{key}")
        await expect(page).to_have_url(re.compile(f"/{path}$"))
    await press_in_one(page, "gr")
    link = page.get_by_role("link", name="by keys")
    await expect(link).to_be_visible()
    await press("j")
    await expect(link).to_be_focused()
    await press("k", "Enter")
    heading = page.get_by_role("heading", name="by keys")
    await expect(heading).to_be_visible()
    tabs = page.get_by_role("tab")
    for number in range(await tabs.count(), 0, -1):
        await press(str(number))
        await expect(tabs.nth(number - 1)).to_have_attribute("data-state", "active")

    past = page.get_by_text("Viewing the past")
    await heading.click()
    await press("[")
    await expect(past).to_contain_text("event 3 of 4")
    await press("]")
    await expect(past).to_contain_text("event 4 of 4")
    await press("[", "[", "[")
    await expect(past).to_contain_text("event 1 of 4")
    await press("Space")
    await expect(past).to_contain_text("event 4 of 4")
    await page.get_by_role("button", name="Back to now").click()
    await heading.click()
    status, question = page.locator("header.head [data-status]"), page.get_by_role("alertdialog")
    await press("p")
    await expect(status).to_have_text("Paused")
    await press("p")
    await expect(status).to_have_text("Running")
    await expect(page.get_by_role("button", name="Cancel")).to_be_enabled()
    await press("c")
    await expect(question).to_contain_text("Cancel this run?")
    await page.keyboard.press("Escape")
    await expect(question).to_be_hidden()
    await desk.served.control(run_id, "fail")
    await expect(status).to_have_text("Failed")
    await heading.click()
    await press("r")
    await expect(question).to_contain_text("Retry this run?")
    await page.keyboard.press("Escape")
    await press_in_one(page, "gr")
    await expect(link).to_be_visible()
    await press("/")
    await expect(page.get_by_label("Search")).to_be_focused()
    await page.get_by_role("heading", name="Runs").click()

    assert set(await listed(desk)) == pressed | {"?"}
    # The browser itself tells of an output that is not there.
    desk.problems[:] = [problem for problem in desk.problems if "404" not in problem]


async def test_the_page_is_walked_through_by_the_tab_key(desk: Screen) -> None:
    await desk.served.open_run(title="reached")
    await desk.show("/runs")
    await expect(desk.page.get_by_role("link", name="reached")).to_be_visible()

    await desk.page.keyboard.press("Tab")
    await expect(desk.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await desk.page.keyboard.press("Enter")
    walked: list[str] = []
    for _ in range(60):
        await desk.page.keyboard.press("Tab")
        walked.append(str(await desk.page.evaluate(NAME_OF_FOCUS)))
        if walked[-1] == "reached":
            break

    assert walked[0].startswith("All"), "the content begins after the pages' links"
    assert walked[-2:] == ["Select reached", "reached"], walked


async def test_keys_rest_while_something_is_typed_and_are_listed_on_one_overlay(desk: Screen) -> None:
    await desk.show("/runs")
    await expect(desk.page.get_by_label("Search")).to_be_visible()

    await desk.page.keyboard.press("/")
    await expect(desk.page.get_by_label("Search")).to_be_focused()
    await desk.page.keyboard.type("g a?")
    await expect(desk.page.get_by_label("Search")).to_have_value("g a?")
    await expect(desk.page.get_by_role("dialog")).to_have_count(0)
    await desk.page.get_by_role("heading", name="Runs").click()
    await desk.page.keyboard.press("Shift+?")

    await expect(desk.page.get_by_role("dialog")).to_contain_text("Go to the audit")
    await desk.page.keyboard.press("Escape")
    await expect(desk.page.get_by_role("dialog")).to_be_hidden()


async def test_the_light_that_was_chosen_stays(desk: Screen) -> None:
    await desk.page.emulate_media(color_scheme="light")
    await desk.show("/runs")
    body = desk.page.locator("body")
    await expect(body).to_have_css("background-color", "rgb(250, 250, 250)")

    await desk.page.get_by_label("Theme").select_option("dark")

    await expect(body).to_have_css("background-color", "rgb(12, 12, 15)")
    await desk.page.reload()
    await expect(body).to_have_css("background-color", "rgb(12, 12, 15)")
    await desk.page.get_by_label("Theme").select_option("system")
    await expect(body).to_have_css("background-color", "rgb(250, 250, 250)")
    await desk.page.emulate_media(color_scheme="null")

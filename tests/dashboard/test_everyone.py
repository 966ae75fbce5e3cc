"""Every page and every question on it can be used by everyone: axe finds nothing, in the light and in the dark."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, ViewportSize, expect

from runfold.events import RunFailed
from tests.dashboard.screen import DESK, Screen
from tests.dashboard.stories import an_ordinary_day, name, write
from tests.served import note

pytestmark = pytest.mark.slow
ROUTER = Path(__file__).parents[2] / "web" / "src" / "router.ts"
PAGES = {
    "/runs": "tr.run",
    "/runs?q=nothing-like-it": ".empty",
    "/runs/{game}?tab=timeline": "section.timeline .row",
    "/runs/{game}?tab=steps": "button.step",
    "/runs/{game}?tab=steps&step=player_sprite": "[role=dialog] table",
    "/runs/{game}?tab=graph": "[data-node]",
    "/runs/{failed}?tab=events": "li[id^=e]",
    "/runs/{game}?tab=logs": ".log .line",
    "/runs/{game}?tab=files": "[role=tabpanel] table",
    "/runs/{game}?tab=cost": "[data-cost]",
    "/runs/{game}?tab=history": "[role=tabpanel] table",
    "/runs/{game}?tab=data": ".json",
    "/runs/{failed}?at=20": ".past",
    "/runs/{asking}": "[data-approval]",
    "/approvals": "[data-approval]",
    "/approvals?status=granted": ".empty",
    "/compare?a={built}&b={failed}": "[data-after]",
    "/audit": "tbody tr",
    "/costs": "tbody tr",
    "/tokens": "[data-token]",
    "/admin": "[data-view]",
}
APART = {"/", "/api/docs"}  # A redirection; and what `test_api_docs.py` looks at.
SIZES = (ViewportSize(width=360, height=740), DESK, ViewportSize(width=3840, height=2160))
# What lies outside of the screen, but for what scrolls within a box of its own and what is only heard.
OUTSIDE = """() => {
  const held = (it) => it.parentElement !== null && (
    getComputedStyle(it.parentElement).overflowX !== 'visible' || held(it.parentElement));
  const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll('body *')].filter((it) => {
    const box = it.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && (box.right > width + 1 || box.left < -1) && !held(it)
      && !it.closest('.only-heard');
  }).map((it) => it.outerHTML.slice(0, 120));
}"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_Ask = Callable[[Page], Awaitable[None]]


def press(*buttons: str) -> _Ask:
    async def ask(page: Page) -> None:
        for button in buttons:
            await page.get_by_role("button", name=button, exact=True).first.click()

    return ask


async def choose_all_and_cancel(page: Page) -> None:
    await page.get_by_label("Select all that are read").check()
    await page.get_by_role("button", name="Cancel …").click()


DIALOGS: dict[str, tuple[str, _Ask]] = {
    "retry": ("/runs/{failed}", press("Retry")),
    "retry of what was typed": ("/runs/{typed}", press("Retry")),
    "cancel": ("/runs/{game}", press("Cancel")),
    "describe": ("/runs/{game}", press("Edit, or add a note")),
    "resume with a higher limit": ("/runs/{stopped}", press("Resume")),
    "deny": ("/runs/{asking}", press("Deny")),
    "run a step again": ("/runs/{game}?tab=steps&step=tileset", press("Rerun")),
    "keys": ("/costs", press("Keys")),
    "bulk": ("/runs", choose_all_and_cancel),
    "revoke": ("/tokens", press("Revoke ci")),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runs(house: Screen) -> dict[str, str]:
    """The ids of an ordinary day's runs, one of which has files and output."""
    served = house.served
    runs = await an_ordinary_day(served.log)
    stored = f"/api/runs/{runs['game']}/artifacts/tiles.json?step=tileset"
    await served.ask("PUT", stored, data=b"[]", headers={"Content-Type": "application/json"})
    folder = house.data / "runs" / runs["game"]
    folder.mkdir(parents=True)
    (folder / "output.log").write_bytes(b"\x1b[32mgreen\x1b[0m and \x1b[35mmagenta\x1b[0m\n")
    stopped = await served.open_run(title="too dear", limits={"cost": 0.5})
    await served.report(stopped, {"type": "token_usage", "data": {"model": "m", "cost_micros": 600_000}}, note(1))
    await served.ask("POST", "/api/tokens", json={"name": "ci", "role": "viewer"})
    failed = RunFailed(reason_code="EXIT_NONZERO")
    typed = await write(served.log, name(0x5900), 60, [(9, failed)], driver="here", command=("pytest", "-q"))
    return {**runs, "stopped": stopped, "typed": typed}


@pytest_asyncio.fixture(params=PAGES, scope="module", loop_scope="session")
async def shown(request: pytest.FixtureRequest, house: Screen, runs: dict[str, str]) -> str:
    """Each page in turn, for all that is asked of it."""
    path = str(request.param)
    await house.go(path.format_map(runs))
    await expect(house.page.locator(PAGES[path]).first).to_be_visible()
    return path


@pytest.mark.usefixtures("shown")
async def test_a_page_can_be_used_by_everyone(desk: Screen) -> None:
    assert await desk.faults() == []


async def test_a_page_fits_a_small_phone_a_desk_and_a_wall(desk: Screen, shown: str) -> None:
    wrong: list[str] = []
    # Lines of logs are as long as they are, and scroll in their box: `test_hostile` looks at them.
    for size in SIZES if "=logs" not in shown else ():
        await desk.page.set_viewport_size(size)
        wider, outside = await desk.page.evaluate(WIDER), await desk.page.evaluate(OUTSIDE)
        if wider or outside:
            wrong.append(f"at {size['width']}: {wider} pixels too wide, {outside[:3]}")

    assert wrong == []


@pytest.mark.parametrize("question", DIALOGS)
async def test_a_question_can_be_used_by_everyone_and_keeps_the_focus_inside(
    desk: Screen, runs: dict[str, str], question: str
) -> None:
    path, ask = DIALOGS[question]
    await desk.go(path.format_map(runs))
    await ask(desk.page)
    dialogs = desk.page.locator("[role=dialog], [role=alertdialog]")
    dialog = dialogs.last
    await expect(dialog).to_have_attribute("aria-labelledby", re.compile("."))
    opened = await dialogs.count()
    if question == "retry":
        await expect(dialog.locator("[data-planned]").first).to_be_visible()

    faults = await desk.faults()
    inside: list[bool] = []
    for _ in range(await dialog.locator("button, input, select, textarea, [tabindex='0']").count() + 1):
        await desk.page.keyboard.press("Tab")
        inside.append(await dialog.evaluate("dialog => dialog.contains(document.activeElement)"))
    await desk.page.keyboard.press("Escape")

    assert faults == []
    assert all(inside), "the Tab key never leaves the question"
    await expect(dialogs).to_have_count(opened - 1)


async def test_the_login_can_be_used_by_everyone(desk: Screen) -> None:
    async with desk.another(logged_in=False) as stranger:
        await stranger.show("/runs")
        await expect(stranger.page.get_by_label("Token")).to_be_visible()

        assert await stranger.faults() == []


def test_no_page_is_left_out() -> None:
    routes = set(re.findall(r'\bpath: "([^"]+)"', ROUTER.read_text(encoding="utf-8"))) - APART

    shown = {re.sub(r"[?].*", "", path).replace("{game}", ":id") for path in PAGES}

    assert {route for route in routes if "(" not in route} <= shown

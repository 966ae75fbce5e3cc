"""A long run on the page: only what is looked at is asked for and drawn, and the whole of it stays in sight."""

import re
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Request, Response, expect

from runfold.events import (
    Event,
    LimitExceeded,
    LimitWarned,
    Message,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
    TurnStarted,
)
from tests.dashboard.screen import Screen
from tests.histories import new_event

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("written")]
TOOLS = 1_200
APPEND_EVENTS = 400
PAGE_SPANS = 400  # What the page asks for at once.
LONG, GOING_ON = "r_" + "c" * 26, "r_" + "d" * 26


@pytest.fixture
def screen(desk: Screen) -> Screen:
    """A server and a page for all of them: each looks at a run of its own."""
    return desk


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def written(house: Screen) -> None:
    """Two long runs, one of which a test goes on with."""
    for run_id in (LONG, GOING_ON):
        await write_long(house, run_id)


async def write_long(screen: Screen, run_id: str) -> None:
    """Tools of a tenth of a second, one after the other, in a turn that goes on; a limit is neared and broken."""
    happened: list[Event] = [RunQueued(driver="reported", title="a long one"), RunStarted(), TurnStarted(turn=1)]
    for number in range(TOOLS):
        happened += [ToolCalled(tool=f"tool {number}", call_id=f"c{number}"), ToolReturned(call_id=f"c{number}")]
        if number == TOOLS // 2:
            happened.append(LimitWarned(limit="cost", threshold=2, actual=1.6))
    happened.append(LimitExceeded(limit="cost", threshold=2, actual=2.1, on_exceed="warn"))
    # The last of it was just now, so that the open turn is not longer than all the rest.
    began_us, expected = time.time_ns() // 1_000 - len(happened) * 100_000, 0
    new = [new_event(it, at_us=began_us + n * 100_000, tenant="default") for n, it in enumerate(happened)]
    for first in range(0, len(new), APPEND_EVENTS):
        expected = (await screen.served.log.append(run_id, new[first : first + APPEND_EVENTS], expected=expected)).last


def timelines(screen: Screen, path: str = "timeline") -> list[dict[str, list[str]]]:
    """The questions that the page asks for spans from now on."""
    asked: list[dict[str, list[str]]] = []

    def note(request: Request) -> None:
        address = urlsplit(request.url)
        if address.path == f"/api/runs/{LONG}/{path}":
            asked.append(parse_qs(address.query))

    screen.page.on("request", note)
    return asked


async def test_of_a_long_run_a_page_of_bars_is_asked_for_and_those_in_sight_are_drawn(screen: Screen) -> None:
    asked, rows = timelines(screen), screen.page.locator("section.timeline .row")

    await screen.show(f"/runs/{LONG}?tab=timeline")

    await expect(screen.page.locator("[data-map]")).to_contain_text("1,203 bars")
    assert await rows.count() < 60
    assert [query.get("limit") for query in asked if query.get("kind") is None] == [[str(PAGE_SPANS)]]
    for page in (2, 3, 4):
        await screen.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        if page < 4:
            await expect(screen.page.locator(f"[aria-setsize='{PAGE_SPANS * page}']").first).to_be_visible()
    await expect(screen.page.locator("[aria-setsize='1203']").last).to_contain_text("limit cost 2.1 of 2")
    assert await rows.count() < 60


async def test_a_part_of_a_long_run_is_drawn_over_its_map_and_has_an_address(screen: Screen) -> None:
    await screen.show(f"/runs/{LONG}?tab=timeline")
    strip, rows = screen.page.locator("[data-map] .strip"), screen.page.locator("section.timeline .row")
    box = await strip.bounding_box()
    assert box is not None
    await expect(screen.page.locator("[data-mark]")).to_have_count(2)

    await screen.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 5)
    await screen.page.mouse.down()
    await screen.page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 5, steps=4)
    await screen.page.mouse.up()

    await expect(screen.page.locator("[data-mark]")).to_have_count(1)
    await expect(screen.page.locator("[data-mark]")).to_have_attribute("title", "limit cost 1.6 of 2 warned")
    whole = screen.page.get_by_role("button", name="Whole run")
    await expect(whole).to_be_visible()
    assert re.search(r"window=\d+-\d+", screen.page.url)
    await expect(rows.nth(1)).to_contain_text(re.compile(r"tool tool (4|5)\d\d"))
    before = await rows.nth(1).text_content()
    await screen.page.reload()
    await expect(rows.nth(1)).to_have_text(before or "")
    await screen.page.get_by_role("button", name="Later").click()
    await expect(rows.nth(1)).not_to_have_text(before or "")
    await whole.click()
    await expect(rows.nth(1)).to_contain_text("tool 0")
    assert "window=" not in screen.page.url


async def test_the_map_is_used_by_keys(screen: Screen) -> None:
    await screen.show(f"/runs/{LONG}?tab=timeline")
    said = screen.page.locator("[data-map] [data-shown]")

    await screen.page.get_by_role("button", name="Closer").focus()
    await screen.page.keyboard.press("Enter")

    await expect(said).to_contain_text(re.compile("to .* of "))
    await screen.page.get_by_role("button", name="Further away").focus()
    await screen.page.keyboard.press("Enter")
    await expect(said).to_contain_text("1,203 bars")


async def test_of_a_long_run_that_goes_on_only_what_changed_is_asked_for(screen: Screen) -> None:
    await screen.show(f"/runs/{GOING_ON}?tab=timeline&at=9")
    await expect(screen.page.locator("section.timeline .row")).to_have_count(4)
    await screen.page.get_by_role("button", name="Back to now").click()
    await expect(screen.page.locator("[data-map]")).to_contain_text("1,203 bars")
    answers: list[tuple[int, Response]] = []

    def note_spans(response: Response) -> None:
        address = urlsplit(response.url)
        query = parse_qs(address.query)
        if address.path.endswith("/timeline") and "changed_after" in query:
            answers.append((int(query["min_position"][0]), response))

    screen.page.on("response", note_spans)

    called = {"type": "tool_called", "data": {"tool": "late", "call_id": "late"}}
    late = int((await (await screen.served.report(GOING_ON, called)).json())["last"])

    await expect(screen.page.locator("[data-map]")).to_contain_text("1,204 bars")
    # What was asked on the way back to now is answered when it may.
    assert [len((await answer.json())["items"]) for position, answer in answers if position >= late] == [1]


async def test_the_end_of_a_long_run_is_read_without_folding_its_past(screen: Screen) -> None:
    events, folds = timelines(screen, "events"), timelines(screen, "")
    screen.page.on("request", lambda it: folds.append({}) if "at=v" in it.url else None)

    await screen.show(f"/runs/{LONG}?tab=events")

    last = 3 + 2 * TOOLS + 2
    await expect(screen.page.locator(f"#e{last}")).to_be_attached()
    assert [query["after"] for query in events] == [[f"v{last - 200}"]]
    assert folds == []


async def test_when_more_comes_live_than_is_kept_the_list_goes_on_without_a_hole(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="busy")
    await screen.show(f"/runs/{run_id}?tab=events")
    await expect(screen.page.locator("li[id^=e]")).to_have_count(2)
    version, expected = 2, (await screen.served.log.bounds()).last

    for _ in range(4):
        now_us = time.time_ns() // 1_000
        new = [new_event(Message(text=f"m {n}"), at_us=now_us, tenant="default") for n in range(300)]
        expected = (await screen.served.log.append(run_id, new, expected=expected)).last
        version += 300
        await expect(screen.page.locator(f"#e{version}")).to_be_attached()

    shown = await screen.page.locator("li[id^=e]").evaluate_all("all => all.map(it => Number(it.id.slice(1)))")
    assert shown == list(range(shown[0], version + 1))
    assert len(shown) <= 1_000
    await screen.page.get_by_role("button", name="Earlier events").click()
    await expect(screen.page.locator(f"#e{shown[0] - 1}")).to_be_attached()

"""Time travel: every part of the page is the run as it was at the event that is shown, and it plays."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from playwright.async_api import Request, expect

from tests.dashboard.screen import Screen

pytestmark = pytest.mark.slow
OUTPUT = ("one\n", "two\n")


@pytest.fixture
def screen(desk: Screen) -> Screen:
    """A server and a page for all of them: each looks at a run of its own."""
    return desk


async def open_painting(screen: Screen) -> tuple[str, int]:
    """A run that did everything twice, and the number of the event at which it had done everything once."""
    run_id = await screen.served.open_run(title="a painting", steps=[{"id": "sky"}, {"id": "sea"}], limits={"cost": 4})
    folder = screen.data / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "output.log").write_text("".join(OUTPUT), encoding="utf-8")
    halfway, offset = 0, 0
    for number, (step, model) in enumerate((("sky", "azure"), ("sea", "teal"))):
        answer = await screen.served.report(
            run_id,
            {"type": "step_started", "data": {"step": step}},
            {"type": "token_usage", "data": {"model": model, "input_tokens": 1_000, "cost_micros": 1_500_000}},
            {"type": "subprocess_output", "data": {"text": OUTPUT[number], "offset": offset}},
            {"type": "step_completed", "data": {"step": step}},
        )
        assert answer.status == 200, await answer.text()
        offset += len(OUTPUT[number])
        await screen.served.ask("PUT", f"/api/runs/{run_id}/artifacts/{step}.txt?media_type=text/plain", data=b"x")
        halfway = halfway or (await (await screen.served.ask("GET", f"/api/runs/{run_id}")).json())["version"]
    await screen.served.control(run_id, "complete")
    return run_id, halfway


# What was written since is answered before the tail that is asked for at the same time, and read after it.
SLOW = """() => {
  const real = window.fetch;
  window.fetch = async (what, options) => {
    const answer = await real(what, options);
    if (String(what).includes("/output?tail=")) await new Promise((then) => setTimeout(then, 200));
    if (String(what).includes("/output?after=")) {
      const bytes = await answer.arrayBuffer();
      answer.arrayBuffer = () => new Promise((give) => setTimeout(() => give(bytes), 500));
    }
    return answer;
  };
}"""


async def test_output_that_is_on_its_way_while_the_tail_is_read_is_not_shown_twice(screen: Screen) -> None:
    run_id, halfway = await open_painting(screen)
    lines = screen.page.locator(".line")
    await screen.show(f"/runs/{run_id}?tab=logs&at={halfway}")
    await expect(lines).to_have_count(1)
    await screen.page.evaluate(SLOW)

    async with screen.page.expect_response(lambda answer: "/output?after=" in answer.url) as slow:
        await screen.page.get_by_role("button", name="Back to now").click()
    await (await slow.value).finished()
    # It is shown, if it is, when the page has had this much time to itself.
    await screen.page.evaluate("() => new Promise((then) => setTimeout(then, 700))")

    await expect(lines).to_have_count(2)


async def test_every_part_of_the_page_is_the_run_as_it_was_at_that_event(screen: Screen) -> None:
    run_id, halfway = await open_painting(screen)
    parts = {
        "timeline": ("section.timeline .row", 1, 2),
        "steps": ("button.step[data-tone=completed]", 1, 2),
        "graph": ("[data-node]:has-text('Completed')", 1, 2),
        "events": ("li[id^=e]", halfway - 1, halfway * 2 - 3),  # Output is not among the kinds that are shown.
        "logs": (".line", 1, 2),
        "files": ("[data-artifact]", 1, 2),
        "cost": ("[data-cost]", 2, 4),
        "history": ("tr[data-status]", 2, 3),
    }

    for tab, (what, then, now) in parts.items():
        await screen.go(f"/runs/{run_id}?tab={tab}&at={halfway}")
        await expect(screen.page.locator(what), tab).to_have_count(then)
        await expect(screen.page.locator("[data-fact=cost]")).to_contain_text("$1.50 of $4.00")
        await screen.page.get_by_role("button", name="Back to now").click()
        await expect(screen.page.locator(what), tab).to_have_count(now)
        await expect(screen.page.locator("[data-fact=cost]")).to_contain_text("$3.00 of $4.00")


async def test_the_step_that_is_open_is_that_of_the_moment_with_its_files(screen: Screen) -> None:
    run_id, halfway = await open_painting(screen)

    await screen.go(f"/runs/{run_id}?tab=steps&step=sea&at={halfway}")

    panel = screen.page.get_by_role("dialog")
    await expect(panel).to_contain_text("It has not begun.")
    await expect(panel).to_contain_text("No file is stored.")


async def open_walk(screen: Screen, events: int) -> str:
    """So many events, a second apart."""
    run_id = await screen.served.open_run(title="a walk")
    first = datetime.now(UTC) - timedelta(hours=1)
    walked = [
        {"type": "message", "data": {"text": f"step {n}"}, "at": (first + timedelta(seconds=n)).isoformat()}
        for n in range(events)
    ]
    await screen.served.report(run_id, *walked)
    return run_id


async def test_a_run_plays_in_the_time_it_took_at_the_chosen_speed(screen: Screen) -> None:
    run_id = await open_walk(screen, 60)
    asked: list[int] = []

    def note_past(request: Request) -> None:
        if found := re.search(rf"runs/{run_id}\?at=v(\d+)", request.url):
            asked.append(int(found[1]))

    screen.page.on("request", note_past)
    await screen.go(f"/runs/{run_id}?at=3")
    await screen.page.get_by_label("Speed").select_option("64")
    await screen.page.get_by_role("button", name="Play from here").click()

    await expect(screen.page.get_by_text("Viewing the past: event 62 of 62")).to_be_visible()
    await expect(screen.page.get_by_role("button", name="Play from here")).to_be_visible()
    # In a fifth of a second about thirteen seconds of the run go by, each an event.
    shown = sorted(set(asked))
    assert shown[0] == 3
    assert shown[-1] == 62
    assert len(shown) < 10
    assert max(later - earlier for earlier, later in pairwise(shown)) <= 13
    assert f"at={shown[-1]}" in screen.page.url


async def test_the_slider_asks_for_where_it_was_drawn_to_and_not_for_all_between(screen: Screen) -> None:
    run_id = await open_walk(screen, 60)
    await screen.go(f"/runs/{run_id}?tab=events")
    slider = screen.page.get_by_label("Event of the run")
    await expect(slider).to_have_attribute("max", "62")
    asked: list[str] = []
    screen.page.on("request", lambda request: asked.append(request.url) if "at=v" in request.url else None)

    await slider.focus()
    for _ in range(20):
        await screen.page.keyboard.press("ArrowLeft")

    await expect(screen.page.get_by_text("Viewing the past: event 42 of 62")).to_be_visible()
    await expect(screen.page.locator("li[id^=e]").last).to_have_id("e42")
    assert "at=v42" in asked[-1]
    assert len(asked) < 20


@pytest.mark.parametrize(("speed", "shown", "after_ms"), [(1, 4, 1_000), (4, 4, 250), (16, 6, 200)])
async def test_at_every_speed_the_next_moment_comes_when_it_is_due(
    screen: Screen, speed: int, shown: int, after_ms: int
) -> None:
    """Events a second apart, under a clock that only the test moves; what comes within 200 ms is shown together."""
    run_id = await open_walk(screen, 10)
    async with screen.another() as other:
        await other.page.clock.install()
        await other.show(f"/runs/{run_id}?at=3")
        past = other.page.get_by_text("Viewing the past: event")
        await expect(past).to_contain_text("event 3 of 12")
        await other.page.get_by_label("Speed").select_option(str(speed))
        await other.page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
        async with other.page.expect_response(lambda it: "/events?" in it.url and "after=v2" in it.url) as looked:
            await other.page.get_by_role("button", name="Play from here").click()
        await (await looked.value).finished()

        await other.page.clock.run_for(after_ms - 50)
        await expect(past).to_contain_text("event 3 of 12")
        await other.page.clock.run_for(100)
        await expect(past).to_contain_text(f"event {shown} of 12")

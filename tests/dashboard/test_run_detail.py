"""One run as a person sees it: now, and as it was."""

import base64
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from runfold.budgets import parse_budgets
from runfold.events import CostEstimated, Event, RunQueued, RunStarted, StepSpec, StepStarted, TokenUsage
from runfold.workflows import Registry
from tests.dashboard.screen import PERSON, Screen
from tests.histories import new_event
from tests.logs import tomorrow_us
from tests.served import note, serving

pytestmark = pytest.mark.slow


@pytest.fixture
def screen(desk: Screen) -> Screen:
    """A server and a page for all of them: each looks at a run of its own."""
    return desk


async def open_run(screen: Screen, **body: Any) -> str:
    run_id = await screen.served.open_run(title="nightly build", labels={"branch": "main"}, **body)
    await screen.served.report(run_id, note(1), note(2))
    return run_id


async def test_the_header_says_how_the_run_stands_and_why(screen: Screen) -> None:
    run_id = await open_run(screen, units_total=8, unit_name="frame")
    await screen.served.report(
        run_id,
        {"type": "unit_started", "data": {"unit": "f1", "index": 0}},
        {"type": "unit_approved", "data": {"unit": "f1"}},
        {"type": "token_usage", "data": {"input_tokens": 1200, "output_tokens": 34, "cost_micros": 420000}},
    )

    await screen.go(f"/runs/{run_id}")

    page = screen.page
    await expect(page.get_by_role("heading", name="nightly build")).to_be_visible()
    await expect(page.locator("header.head")).to_contain_text("Running")
    await expect(page.get_by_text("1 of 8")).to_be_visible()
    await expect(page.locator("section.facts")).to_contain_text("$0.42")
    await expect(page.locator("section.facts")).to_contain_text("1,234")
    assert "[running] nightly build" in await page.title()


async def test_an_error_is_shown_first_with_its_trace_folded(screen: Screen) -> None:
    run_id = await open_run(screen)
    await screen.served.control(
        run_id,
        "fail",
        reason_code="SYS_WRITE_ERROR",
        error={"code": "SYS_WRITE_ERROR", "message": "disk full", "stack_trace": "line 1\nline 2"},
    )

    await screen.go(f"/runs/{run_id}")

    await expect(screen.page.get_by_role("alert")).to_contain_text("disk full")
    await expect(screen.page.locator("section.error pre")).to_be_hidden()
    await screen.page.get_by_text("Stack trace").click()
    await expect(screen.page.locator("section.error pre")).to_be_visible()


async def test_events_appear_as_they_happen_and_open_in_place(screen: Screen) -> None:
    run_id = await open_run(screen)
    await screen.go(f"/runs/{run_id}?tab=events")
    await expect(screen.page.locator("li[id^=e]")).to_have_count(4)

    await screen.served.report(run_id, note(3))
    await expect(screen.page.locator("#e5")).to_contain_text("message 3")
    await screen.page.locator("#e5 button").first.click()

    await expect(screen.page.locator("#e5 .whole")).to_contain_text("recorded_at")


async def test_output_is_shown_as_text_with_its_colours(screen: Screen) -> None:
    run_id = await open_run(screen)
    folder = screen.data / "runs" / run_id
    folder.mkdir(parents=True)
    with (folder / "output.log").open("wb") as output:
        output.write(b"".join(b"line %d\n" % number for number in range(3_000)))
        output.write(b"\x1b[31mred\x1b[0m <img src=x onerror=alert(1)>\n")

    await screen.go(f"/runs/{run_id}?tab=logs")

    last = screen.page.get_by_text("<img src=x onerror=alert(1)>")
    await expect(last).to_be_visible()
    await expect(screen.page.locator(".ink-red")).to_have_text("red")
    await screen.page.get_by_label("Search").fill("line 2999")
    await expect(screen.page.locator(".line")).to_have_count(1)


async def test_the_past_is_shown_at_every_event_and_has_an_address(screen: Screen) -> None:
    run_id = await open_run(screen)
    await screen.served.control(run_id, "pause")
    await screen.served.control(run_id, "resume")
    await screen.served.control(run_id, "complete")
    last = (await (await screen.served.ask("GET", f"/api/runs/{run_id}")).json())["version"]
    await screen.go(f"/runs/{run_id}")
    await expect(screen.page.locator("header.head")).to_contain_text("Completed")

    await screen.page.get_by_role("button", name="One event back").click()
    await screen.page.get_by_role("button", name="One event back").click()

    await expect(screen.page.get_by_text(f"Viewing the past: event {last - 2} of {last}")).to_be_visible()
    await expect(screen.page.locator("header.head")).to_contain_text("Paused")
    await screen.page.reload()
    await expect(screen.page.locator("header.head")).to_contain_text("Paused")
    await expect(screen.page.locator("li[id^=e]")).to_have_count(last - 2)
    await screen.page.get_by_role("button", name="Back to now").click()
    await expect(screen.page.locator("header.head")).to_contain_text("Completed")


async def test_a_run_is_cancelled_only_after_a_question(screen: Screen) -> None:
    run_id = await open_run(screen)
    await screen.go(f"/runs/{run_id}")

    await screen.page.get_by_role("button", name="Cancel").click()
    dialog = screen.page.get_by_role("alertdialog")
    await expect(dialog).to_be_visible()
    await screen.page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    assert (await (await screen.served.ask("GET", f"/api/runs/{run_id}")).json())["status"] == "running"
    await screen.page.get_by_role("button", name="Cancel").click()
    await dialog.get_by_label("Reason").fill("not needed")
    await dialog.get_by_role("button", name="Cancel the run").click()

    await expect(screen.page.locator("header.head")).to_contain_text("Cancelled")
    events = await screen.served.events(run_id)
    assert [event["data"]["reason"] for event in events if event["type"] == "cancel_requested"] == ["not needed"]


async def test_pause_and_resume_are_one_click(screen: Screen) -> None:
    run_id = await open_run(screen)
    await screen.go(f"/runs/{run_id}")

    await screen.page.get_by_role("button", name="Pause").click()
    await expect(screen.page.locator("header.head")).to_contain_text("Paused")
    await screen.page.get_by_role("button", name="Resume").click()

    await expect(screen.page.locator("header.head")).to_contain_text("Running")


async def test_a_run_that_is_not_there_is_said_to_be_so(screen: Screen) -> None:
    # A browser of its own: it tells of a 404, also when news of other runs have the page ask again.
    async with screen.another() as other:
        await other.go("/runs/r_" + "a" * 26)

        await expect(other.page.get_by_role("alert")).to_contain_text("is not known")


async def test_output_is_followed_without_an_error_and_read_back_to_its_beginning(screen: Screen) -> None:
    run_id = await open_run(screen)
    folder = screen.data / "runs" / run_id
    folder.mkdir(parents=True)
    content = b"".join(b"line %d\n" % number for number in range(3_000))
    (folder / "output.log").write_bytes(content)

    async with screen.page.expect_response(lambda it: "/output?after=" in it.url) as looked:
        await screen.go(f"/runs/{run_id}?tab=logs")
    with (folder / "output.log").open("ab") as output:
        output.write(b"it goes on\n")

    assert (await looked.value).status == 204
    await expect(screen.page.get_by_text("it goes on")).to_be_visible()
    await screen.page.get_by_role("button", name="Earlier lines").click()
    await screen.page.get_by_label("Search").fill("line 0")
    await expect(screen.page.locator(".line")).to_have_text(["line 0"])
    await expect(screen.page.locator(".log").get_by_role("status")).to_have_text("1 of 3,001 lines")


async def test_a_stored_file_is_looked_at_in_place_and_nothing_in_it_runs(screen: Screen) -> None:
    run_id = await open_run(screen)
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    )
    files = {
        "pixel.png": ("image/png", pixel),
        "page.html": ("text/html", b"<script>document.title = 'ran'</script>"),
        "sheet.json": ("application/json", b'{"frames": [1, 2, {"name": "blaze"}]}'),
        "game.zip": ("application/zip", b"PK"),
    }
    for name, (media_type, content) in files.items():
        await screen.served.ask(
            "PUT", f"/api/runs/{run_id}/artifacts/{name}?media_type={media_type}", data=content
        )  # fmt: skip
    await screen.go(f"/runs/{run_id}?tab=files")
    dialog = screen.page.get_by_role("dialog")

    async def look(name: str) -> None:
        await screen.page.get_by_role("button", name=f"View {name}").click()
        await expect(dialog.get_by_role("heading", name=name)).to_be_visible()

    await look("pixel.png")
    await expect(dialog.get_by_role("img", name="pixel.png")).to_have_js_property("naturalWidth", 1)
    await screen.page.keyboard.press("Escape")
    await look("page.html")
    await expect(dialog.locator("pre")).to_have_text("<script>document.title = 'ran'</script>")
    await screen.page.keyboard.press("Escape")
    await look("sheet.json")
    await expect(dialog.locator(".json")).to_contain_text("frames")
    assert await screen.faults() == []
    await screen.page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    assert "ran" not in await screen.page.title()
    await expect(screen.page.get_by_role("button", name="View game.zip")).to_have_count(0)


async def test_the_page_says_what_the_run_was_expected_to_cost_and_how_much_of_its_limit_is_used(
    screen: Screen,
) -> None:
    happened: list[Event] = [
        RunQueued(driver="reported", title="dear", limits={"cost": 2}, steps=(StepSpec(id="draw"),)),
        RunStarted(),
        CostEstimated(low_micros=400_000, high_micros=900_000, basis="p50 and p90 of 12 past runs"),
        StepStarted(step="draw"),
        TokenUsage(model="azure", input_tokens=1_000, cost_micros=1_500_000, step="draw"),
    ]
    now_us = time.time_ns() // 1_000
    run_id = "r_" + "d" * 26
    events = [new_event(event, at_us=now_us, tenant="default") for event in happened]
    await screen.served.log.append(run_id, events, expected=0)

    await screen.go(f"/runs/{run_id}?tab=cost")

    fact = screen.page.locator("[data-fact=cost]")
    await expect(fact).to_contain_text("$1.50 of $2.00")
    await expect(fact).to_contain_text("$0.40 to $0.90 expected")
    await expect(screen.page.locator("[data-estimate]")).to_contain_text("p50 and p90 of 12 past runs")
    await expect(screen.page.locator("[data-limit=cost]").last).to_contain_text("$1.50 of $2.00 75 %")
    await expect(screen.page.locator("[data-cost=azure]")).to_contain_text("$1.50")
    await expect(screen.page.locator("[data-cost=draw]")).to_contain_text("$1.50")


async def test_the_budgets_that_a_run_shares_are_shown_as_they_stand_and_not_of_its_past(
    browser: Browser, tmp_path: Path
) -> None:
    rules = parse_budgets("[budgets.day]\ncost_usd = 10\n[budgets.tenant.other]\ncost_usd = 3\n")
    async with serving(tmp_path, now_us=tomorrow_us, registry=lambda: Registry(budgets=rules)) as served:
        context = await browser.new_context(**PERSON)
        screen = Screen(await context.new_page(), served)
        await screen.log_in()
        run_id = await screen.served.open_run(title="one of many")
        await screen.served.report(run_id, spending(4_000_000))
        await screen.show(f"/runs/{run_id}?tab=cost")
        budgets = screen.page.locator("[data-budgets] [data-limit]")
        await expect(budgets).to_have_count(1)
        await expect(budgets).to_contain_text("$4.00 of $10.00 40 % used")

        other_id = await screen.served.open_run(title="another")
        await screen.served.report(other_id, spending(5_000_000))
        await screen.served.report(run_id, note(1))

        await expect(budgets).to_contain_text("$9.00 of $10.00 90 % nearly used up")
        await screen.go(f"/runs/{run_id}?tab=cost&at=2")
        await expect(screen.page.get_by_label("Costs of the run")).to_be_visible()
        await expect(budgets).to_have_count(0)
        assert screen.problems == []
        await context.close()


def spending(cost_micros: int) -> dict[str, Any]:
    return {"type": "token_usage", "data": {"model": "m", "input_tokens": 1, "cost_micros": cost_micros}}

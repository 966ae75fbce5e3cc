"""The inside of one run as a person sees it: its timeline, its steps, its files."""

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect

from eventstore.run_files import output_path, part_path
from runfold.events import (
    Event,
    RunQueued,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepSpec,
    StepStarted,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from tests.dashboard.screen import Screen
from tests.histories import new_event

pytestmark = pytest.mark.slow
STEPS = [
    {"id": "game_config"},
    {"id": "bundle_game", "needs": ["game_config"]},
    {"id": "manifest", "needs": ["bundle_game"]},
]


@pytest.fixture
def screen(desk: Screen) -> Screen:
    """A server and a page for all of them: each looks at a run of its own."""
    return desk


async def open_game(screen: Screen) -> str:
    """One step done at its second attempt, one at work with a tool, one to come."""
    run_id = await screen.served.open_run(title="a game", steps=STEPS)
    happened = (
        {"type": "step_started", "data": {"step": "game_config", "skill": "configure", "input": {"seed": 7}}},
        {"type": "step_failed", "data": {"step": "game_config", "error": {"code": "E_SEED", "message": "bad seed"}}},
        {"type": "step_started", "data": {"step": "game_config", "attempt": 2, "input": {"seed": 8}}},
        {"type": "step_completed", "data": {"step": "game_config", "attempt": 2, "output": {"file": "config.json"}}},
        {"type": "step_started", "data": {"step": "bundle_game"}},
        {"type": "turn_started", "data": {"turn": 1, "step": "bundle_game"}},
        {"type": "tool_called", "data": {"call_id": "t1", "tool": "Bash"}},
    )
    # A second apart, as work is, so that no two of them are one moment.
    first = datetime.now(UTC) - timedelta(minutes=1)
    dated = [{**event, "at": (first + timedelta(seconds=number)).isoformat()} for number, event in enumerate(happened)]
    answer = await screen.served.report(run_id, *dated)
    assert answer.status == 200, await answer.text()
    stored = await screen.served.ask(
        "PUT", f"/api/runs/{run_id}/artifacts/config.json?step=game_config",
        data=b"{}", headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert stored.status in (200, 201), await stored.text()
    return run_id


async def test_a_run_with_steps_opens_at_a_waterfall_of_what_it_did(screen: Screen) -> None:
    run_id = await open_game(screen)

    await screen.go(f"/runs/{run_id}")

    bars = screen.page.locator("section.timeline .row")
    await expect(bars).to_have_count(5)
    await expect(bars.nth(0)).to_have_attribute("title", re.compile("step game_config: failed"))
    await expect(bars.nth(1)).to_have_attribute("title", re.compile("attempt 2: completed"))
    await expect(bars.nth(4)).to_have_attribute("title", re.compile("tool Bash: running"))
    box = await bars.nth(4).locator(".bar").bounding_box()
    assert box is not None
    assert box["width"] > 1
    await screen.served.report(run_id, {"type": "tool_returned", "data": {"call_id": "t1", "status": "ok"}})
    await expect(bars.nth(4)).to_have_attribute("title", re.compile("tool Bash: ok"))


async def test_the_timeline_of_the_past_ends_at_the_event_that_is_shown(screen: Screen) -> None:
    run_id = await open_game(screen)
    first = next(event for event in await screen.served.events(run_id) if event["type"] == "step_started")

    await screen.go(f"/runs/{run_id}?at={first['version']}&tab=timeline")

    bars = screen.page.locator("section.timeline .row")
    await expect(bars).to_have_count(1)
    await expect(bars.first).to_have_attribute("title", re.compile("game_config: running"))


async def test_a_stored_file_is_listed_and_taken_away_as_it_was(screen: Screen) -> None:
    run_id = await open_game(screen)
    await screen.go(f"/runs/{run_id}?tab=files")

    async with screen.page.expect_download() as waited:
        await screen.page.get_by_role("link", name="config.json").click()

    taken = await waited.value
    assert taken.suggested_filename == "config.json"
    assert (await taken.path()).read_bytes() == b"{}"


async def test_steps_are_a_chain_and_each_opens_with_what_went_in_and_came_out(screen: Screen) -> None:
    run_id = await open_game(screen)
    await screen.go(f"/runs/{run_id}?tab=steps")

    chain = screen.page.locator("button.step")
    await expect(chain).to_have_text([re.compile("Completed"), re.compile("Running"), re.compile("Pending")])
    await chain.first.click()

    panel = screen.page.get_by_role("dialog")
    await expect(panel).to_contain_text("config.json")
    await expect(panel).to_contain_text("bad seed")
    await expect(panel.locator("[data-artifact]")).to_have_count(1)
    assert "step=game_config" in screen.page.url
    await screen.page.reload()
    await expect(panel).to_contain_text("seed")
    await screen.page.keyboard.press("Escape")
    await expect(panel).to_be_hidden()
    assert "step=" not in screen.page.url


async def open_workshop(screen: Screen) -> str:
    """A step that ended at its second attempt, and one that is at work, each with what its commands wrote."""
    run_id, at_us = "r_" + "e" * 26, time.time_ns() // 1_000
    happened: list[Event] = [
        RunQueued(driver="queue", title="a workshop", steps=(StepSpec(id="saw"), StepSpec(id="glue"))),
        RunStarted(),
        StepStarted(step="saw"),
        TurnStarted(turn=1, step="saw"),
        TurnFailed(turn=1, step="saw", output_offset=0, output_bytes=6),
        StepFailed(step="saw"),
        StepStarted(step="saw", attempt=2),
        TurnStarted(turn=2, step="saw", attempt=2),
        TurnCompleted(turn=2, step="saw", attempt=2, output_offset=6, output_bytes=6),
        StepCompleted(step="saw", attempt=2),
        StepStarted(step="glue"),
        TurnStarted(turn=3, step="glue"),
    ]
    events = [new_event(event, at_us=at_us, tenant="default") for event in happened]
    await screen.served.log.append(run_id, events, expected=0)
    part = part_path(screen.data, run_id, "glue", 1)
    part.parent.mkdir(parents=True)
    part.write_text("it sticks\n")
    output_path(screen.data, run_id).write_text("blunt\nsharp\n")
    return run_id


async def test_what_one_step_writes_is_shown_alone_while_it_is_at_work_and_by_attempt(screen: Screen) -> None:
    run_id = await open_workshop(screen)
    lines = screen.page.locator(".line")
    await screen.go(f"/runs/{run_id}?tab=steps&step=glue")

    panel = screen.page.get_by_role("dialog")
    await expect(panel.locator(".line")).to_have_text(["it sticks"])
    with part_path(screen.data, run_id, "glue", 1).open("a") as part:
        part.write("and holds\n")
    await expect(panel.locator(".line")).to_have_text(["it sticks", "and holds"])
    await panel.get_by_role("button", name="All its logs").click()
    await expect(screen.page.get_by_label("Output of step glue")).to_contain_text("and holds")
    await screen.page.get_by_label("From", exact=True).select_option("saw")
    await expect(lines).to_have_text(["blunt", "sharp"])
    await screen.page.get_by_label("Attempt").select_option("1")
    await expect(lines).to_have_text(["blunt"])
    assert "log=saw&attempt=1" in screen.page.url
    await screen.page.reload()
    await expect(lines).to_have_text(["blunt"])
    await screen.page.get_by_label("From", exact=True).select_option("the whole run")
    await expect(lines).to_have_text(["blunt", "sharp"])
    assert "log=" not in screen.page.url


async def test_how_a_unit_ended_is_said_in_a_word_and_not_by_a_colour_alone(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="three frames", unit_name="frame", units_total=3)
    await screen.served.report(
        run_id,
        *({"type": "unit_started", "data": {"unit": f"f{index}", "index": index}} for index in range(3)),
        {"type": "unit_approved", "data": {"unit": "f0", "index": 0}},
        {"type": "unit_rejected", "data": {"unit": "f1", "index": 1}},
    )

    await screen.go(f"/runs/{run_id}?tab=timeline")

    names = screen.page.locator("section.timeline .row .name")
    await expect(names).to_have_text([re.compile("f0.*✓ approved"), re.compile("f1.*✕ rejected"), re.compile("f2$")])

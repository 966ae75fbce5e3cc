"""Each user story of the dashboard, told once in a real browser: US1 to US8."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import expect

from projections.engine.generations import FOLD_LOCK_FILE, locked
from tests.dashboard.screen import Screen
from tests.dashboard.stories import MINUTE, a_game
from tests.served import OTHER, note

pytestmark = pytest.mark.slow
WORDS = {"complete": "Completed", "fail": "Failed", "cancel": "Cancelled", "stop": "Stopped", "pause": "Paused"}


async def test_us1_status_at_a_glance(desk: Screen) -> None:
    runs = {word: await desk.served.open_run(title=f"us1 to {action}") for action, word in WORDS.items()}
    for action, word in WORDS.items():
        await desk.served.control(runs[word], action)
    runs["Running"] = await desk.served.open_run(title="us1 goes on")

    await desk.go("/runs?q=us1")

    colours: set[str] = set()
    for word, run_id in runs.items():
        badge = desk.page.locator(f"[data-run={run_id}] [data-status]")
        await expect(badge).to_have_text(word)
        await expect(badge.locator("svg")).to_be_visible()
        colours.add(await badge.evaluate("badge => getComputedStyle(badge).backgroundColor"))
    assert len(colours) == len(runs), "no two of them look alike"


async def test_us2_which_step_runs(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x201, ago=2 * MINUTE)

    await desk.go(f"/runs/{run_id}?tab=steps")

    await expect(desk.page.locator("section.facts")).to_contain_text("Now: bundle_game")
    await expect(desk.page.locator("[data-tone=running]")).to_contain_text("bundle_game")
    await expect(desk.page.locator("[data-step=manifest]")).to_contain_text("Pending")


async def test_us3_error_details(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x301, ago=30 * MINUTE, ends="failed")

    await desk.go(f"/runs/{run_id}")

    banner = desk.page.locator("section.error")
    await expect(banner).to_contain_text("ATLAS_FULL")
    await expect(banner).to_contain_text("frame blaze_run_07 does not fit into 1024x1024")
    await expect(banner.locator("pre")).to_be_hidden()
    await banner.get_by_text("Stack trace").click()
    await expect(banner.locator("pre")).to_contain_text('File "studio/atlas.py", line 41')
    await banner.get_by_role("button", name="Open the failing step").click()
    await expect(desk.page.get_by_role("dialog")).to_contain_text("Step bundle_game")


async def test_us4_retry_of_a_failed_run(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x401, ago=30 * MINUTE, ends="failed")
    await desk.go(f"/runs/{run_id}")

    await desk.page.get_by_role("button", name="Retry", exact=True).click()
    dialog = desk.page.get_by_role("alertdialog")
    await expect(dialog.locator("[data-plan]")).to_contain_text("0 reused, 8 run again")
    await dialog.get_by_role("button", name="Retry the whole run").click()

    await expect(desk.page.locator("header.head")).to_contain_text("Retry of an earlier run")
    await expect(desk.page.locator("header.head")).to_contain_text("Running")
    assert run_id not in desk.page.url


async def test_us5_step_timing(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x501, ago=30 * MINUTE, ends="completed")

    await desk.go(f"/runs/{run_id}?tab=timeline")

    bars = desk.page.locator("section.timeline .row")
    sprite = bars.filter(has_text="player_sprite").first
    await expect(sprite.locator(".took")).to_contain_text("32.0 s")
    widths = [await bars.filter(has_text=step).first.locator(".bar").bounding_box() for step in ("player", "manifest")]
    assert widths[0] is not None
    assert widths[1] is not None
    assert 12 < widths[0]["width"] / widths[1]["width"] < 20, "32 s are sixteen times as wide as 2 s"


async def test_us6_all_tenants_for_admins(desk: Screen) -> None:
    theirs = await desk.served.open_run(title="of another tenant", token=OTHER)
    usage = {"type": "token_usage", "data": {"model": "m", "input_tokens": 10, "cost_micros": 1_000_000}}
    await desk.served.report(theirs, usage, token=OTHER)

    await desk.go("/admin")

    await expect(desk.page.locator("[data-tenant=other]")).to_contain_text("$1.00")
    await expect(desk.page.locator(f"[data-of-all={theirs}]")).to_contain_text("of another tenant")
    await desk.go("/runs?q=of another")
    await expect(desk.page.get_by_text("No run fits these filters")).to_be_visible()


async def test_us7_download_of_artifacts(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="with files")
    stored = await desk.served.ask(
        "PUT", f"/api/runs/{run_id}/artifacts/notes.md", data=b"# kept", headers={"Content-Type": "text/markdown"}
    )
    assert stored.status in (200, 201)
    await desk.go(f"/runs/{run_id}?tab=files")

    async with desk.page.expect_download() as waited:
        await desk.page.get_by_role("link", name="notes.md").click()

    taken = await waited.value
    assert taken.suggested_filename == "notes.md"
    assert (await taken.path()).read_bytes() == b"# kept"


async def test_a_file_is_shown_also_where_the_views_get_to_it_only_after_the_page_has_asked(
    tmp_path: Path, screen: Screen
) -> None:
    run_id = await screen.served.open_run(title="with a late file")
    with locked(tmp_path, FOLD_LOCK_FILE, 0):
        stored = await screen.served.ask("PUT", f"/api/runs/{run_id}/artifacts/notes.md", data=b"# kept")
        assert stored.status in (200, 201)
        async with screen.page.expect_response(lambda it: "/artifacts" in it.url) as asked:
            await screen.go(f"/runs/{run_id}?tab=files")
        assert await (await asked.value).header_value("Runfold-Stale")

    await expect(screen.page.get_by_role("link", name="notes.md")).to_be_visible()


async def test_the_list_shows_the_end_of_a_run_also_where_the_views_get_to_it_only_after_the_page_has_asked(
    tmp_path: Path, screen: Screen
) -> None:
    run_id = await screen.served.open_run(title="ends late")
    await screen.go("/runs")
    badge = screen.page.locator(f"[data-run={run_id}] [data-status]")
    await expect(badge).to_have_text("Running")
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
    with locked(tmp_path, FOLD_LOCK_FILE, 0):
        async with screen.page.expect_response(lambda it: "/api/runs?" in it.url and "runfold-stale" in it.headers):
            await screen.served.control(run_id, "complete")

    await expect(badge).to_have_text("Completed")


async def test_a_question_is_shown_also_where_the_views_get_to_it_only_after_the_page_has_asked(
    tmp_path: Path, screen: Screen
) -> None:
    run_id = await screen.served.open_run(title="asks")
    await screen.go("/approvals")
    await expect(screen.page.get_by_text("No run waits for an answer.")).to_be_visible()
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
    with locked(tmp_path, FOLD_LOCK_FILE, 0):
        async with screen.page.expect_response(lambda it: "runfold-stale" in it.headers):
            await screen.served.ask(
                "POST", f"/api/runs/{run_id}/approvals", json={"kind": "custom", "summary": "Go on?"}
            )

    await expect(screen.page.locator("[data-approval]")).to_contain_text("Go on?")


async def test_the_page_of_a_run_shows_its_end_while_the_views_are_held_up(tmp_path: Path, screen: Screen) -> None:
    run_id = await screen.served.open_run(title="ends at once")
    await screen.go(f"/runs/{run_id}")
    badge = screen.page.locator("main [data-status]").first
    await expect(badge).to_have_text("Running")
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
    with locked(tmp_path, FOLD_LOCK_FILE, 0):
        await screen.served.control(run_id, "complete")

        await expect(badge).to_have_text("Completed")


AWAIT_NEXT = """() => {
  window.next = new Promise((resolve) => {
    new BroadcastChannel("runfold-stream ").onmessage = ({ data }) => data.kind === "event" && resolve();
  });
}"""


async def test_a_run_that_is_opened_from_a_list_that_is_about_to_be_read_anew_follows_its_events(
    screen: Screen,
) -> None:
    run_id = await screen.served.open_run(title="opened at once")
    await screen.show("/runs")
    await expect(screen.page.locator(f"[data-run={run_id}]")).to_be_visible()
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
    # From here on no timer of the page runs out by itself.
    await screen.page.clock.install()
    await screen.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    for action in ("pause", "complete"):
        await screen.page.evaluate(AWAIT_NEXT)
        await screen.served.control(run_id, action)
        await screen.page.evaluate("() => window.next")
        if action == "pause":
            await screen.go(f"/runs/{run_id}")
            await expect(screen.page.locator("header.head [data-status]")).to_have_text("Paused")

    await screen.page.clock.run_for(2_000)

    await expect(screen.page.locator("header.head [data-status]")).to_have_text("Completed")


# What the browser was asked to show, and whether it did; its own class, only listened to.
LISTEN = """() => {
  window.told = [];
  const Real = window.Notification;
  window.Notification = class extends Real {
    constructor(title, options) {
      super(title, options);
      this.addEventListener("show", () => window.told.push([this.title, this.body, this.tag]));
    }
  };
  // A headless browser has no window that could be behind another.
  Object.defineProperty(document, "hidden", { get: () => true, configurable: true });
}"""


async def test_us8_notification_at_the_end(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="long work")
    await desk.served.report(run_id, note(1))
    await desk.show(f"/runs/{run_id}")
    await expect(desk.page.get_by_text("You will be told")).to_have_count(0)
    await desk.page.context.grant_permissions(["notifications"])
    await expect(desk.page.get_by_text("You will be told")).to_be_visible()
    await expect(desk.page.get_by_text("Live", exact=True)).to_be_visible()
    await desk.page.evaluate(LISTEN)
    await desk.page.get_by_role("link", name="Costs").click()

    await desk.served.control(run_id, "complete", message="all is drawn")

    toast = desk.page.locator(".toast")
    await expect(toast).to_contain_text("long work: completed")
    await desk.page.wait_for_function("window.told.length > 0")
    assert await desk.page.evaluate("window.told") == [["long work: completed", "all is drawn", run_id]]
    await toast.get_by_role("link", name="Show the run").click()
    await expect(desk.page.get_by_role("heading", name="long work")).to_be_visible()
    await desk.page.context.clear_permissions()

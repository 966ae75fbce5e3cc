"""Each requirement on the dashboard, shown once in a real browser: REQ1 to REQ25."""

import re

import pytest
from playwright.async_api import expect

from tests.dashboard.screen import Screen
from tests.dashboard.stories import MINUTE, a_game, a_sprite_sheet, name, write
from tests.served import OTHER, note

pytestmark = pytest.mark.slow


async def test_req1_list_of_runs(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req1 nightly", workflow="nightly")
    await desk.served.open_run(title="req1 of somebody else", token=OTHER)

    await desk.go("/runs?q=req1")

    await expect(desk.page.get_by_text("1 that fit")).to_be_visible()

    row = desk.page.locator(f"[data-run={run_id}]")
    for text in ("req1 nightly", run_id, "nightly", "Running", "s ago"):
        await expect(row).to_contain_text(text)


async def test_req2_filters(desk: Screen) -> None:
    labelled = await desk.served.open_run(title="req2 a", workflow="req2", labels={"branch": "main"})
    failed = await desk.served.open_run(title="req2 b", workflow="req2")
    await desk.served.control(failed, "fail")
    rows = desk.page.locator("tr.run")
    await desk.go("/runs?workflow=req2")
    await expect(rows).to_have_count(2)

    await expect(desk.page.locator("[data-chip=failed]")).to_have_text(re.compile("Failed 1"))
    await desk.page.locator("[data-chip=failed]").click()
    await expect(rows).to_have_count(1)
    await expect(rows).to_have_attribute("data-run", failed)
    await desk.page.get_by_role("button", name=re.compile("^All")).click()
    await desk.page.get_by_label("Label").fill("branch=main")
    await desk.page.get_by_label("Label").press("Enter")
    await expect(rows).to_have_count(1)
    await expect(rows).to_have_attribute("data-run", labelled)
    await desk.page.get_by_label("Before").fill("2020-01-01")
    await expect(desk.page.get_by_text("No run fits these filters")).to_be_visible()
    await desk.page.get_by_label("Before").fill("")
    await desk.page.get_by_label("From").fill("2020-01-01")
    await expect(rows).to_have_count(1)
    assert "created_after=2020-01-01" in desk.page.url


@pytest.mark.parametrize(("column", "first"), [("Cost", "dear"), ("Duration", "long"), ("Started", "new")])
async def test_req3_sort(desk: Screen, column: str, first: str) -> None:
    for title, ago, index in (("dear", 60, 3), ("long", 90, 2), ("new", 2, 1)):
        if not (
            await (await desk.served.ask("GET", f"/api/runs?workflow=sprite-sheet&label=team&q={name(index)}")).json()
        )["total"]:
            await a_sprite_sheet(desk.served.log, index, ago=ago * MINUTE, done={"dear": 6}.get(title, 1))
    await desk.go("/runs?workflow=sprite-sheet&sort=status")
    rows = desk.page.locator("tr.run")
    await expect(rows).to_have_count(3)

    await desk.page.get_by_role("button", name=column).click()

    number = {"dear": 3, "long": 2, "new": 1}[first]
    expected = 3 if column == "Duration" else number  # The one of many frames goes on longest by its own events.
    await expect(rows.first).to_have_attribute("data-run", re.compile(f"{expected}$"))
    await desk.page.get_by_role("button", name=column).click()
    await expect(rows.last).to_have_attribute("data-run", re.compile(f"{expected}$"))


async def test_req4_badges(desk: Screen) -> None:
    icons = {"complete": "lucide-circle-check", "fail": "lucide-circle-x"}
    await desk.served.open_run(title="req4 running")
    await write(desk.served.log, name(0x604), 5, [], driver="queue", title="req4 queued", workflow="w")
    for action in icons:
        await desk.served.control(await desk.served.open_run(title=f"req4 {action}"), action)

    await desk.go("/runs?q=req4")

    for status, icon in (
        ("queued", "lucide-clock"),
        ("running", "lucide-loader"),
        ("completed", "lucide-circle-check"),
        ("failed", "lucide-circle-x"),
    ):
        badge = desk.page.locator(f"tr.run [data-status={status}]")
        await expect(badge.locator(f"svg[class*={icon}]")).to_be_visible()
    turning = desk.page.locator("tr.run [data-status=running] svg")
    await expect(turning).to_have_css("animation-name", "none")
    await desk.page.emulate_media(reduced_motion="no-preference")
    await expect(turning).to_have_css("animation-name", re.compile("turn"))
    await desk.page.emulate_media(reduced_motion="reduce")


async def test_req5_search(desk: Screen) -> None:
    by_title = await desk.served.open_run(title="req5 a needle in the hay")
    by_label = await desk.served.open_run(title="req5 b", labels={"found": "needle-5"})
    await desk.served.open_run(title="req5 c")
    await desk.go("/runs")

    await desk.page.get_by_label("Search").fill("needle")
    await desk.page.get_by_label("Search").press("Enter")

    rows = desk.page.locator("tr.run")
    await expect(rows).to_have_count(2)
    assert {await rows.nth(0).get_attribute("data-run"), await rows.nth(1).get_attribute("data-run")} == {
        by_title,
        by_label,
    }
    await desk.page.get_by_label("Search").fill(by_title)
    await desk.page.get_by_label("Search").press("Enter")
    await expect(rows).to_have_count(1)


async def test_req6_metadata(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x606, ago=5 * MINUTE, ends="completed")

    await desk.go(f"/runs/{run_id}")

    head = desk.page.locator("header.head")
    for text in (run_id, "small-game", "Reported by its program", "branch main", "Ember Run, first build"):
        await expect(head).to_contain_text(text)
    facts = desk.page.locator("section.facts")
    await expect(facts).to_contain_text("$0.10 of $2.50")
    for moment in ("Created", "Started", "Ended"):
        await expect(facts.locator(".moments > span", has_text=moment)).to_contain_text(re.compile(r"\d\d:\d\d:\d\d"))
    await head.get_by_role("link", name="team arcade").click()
    await expect(desk.page.locator(f"[data-run={run_id}]")).to_be_visible()
    assert "label=team%3Darcade" in desk.page.url or "label=team=arcade" in desk.page.url


async def test_req7_steps_with_cache_hits(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x607, ago=2 * MINUTE)

    await desk.go(f"/runs/{run_id}?tab=steps")

    chain = desk.page.locator("button.step")
    await expect(chain).to_have_count(8)
    await expect(chain.nth(1)).to_contain_text("bgm_track")
    await expect(chain.nth(1)).to_contain_text("From the cache")


async def test_req8_progress(desk: Screen) -> None:
    run_id = await a_sprite_sheet(desk.served.log, 0x608, ago=2 * MINUTE)
    await desk.go(f"/runs/{run_id}")
    facts = desk.page.locator("section.facts")
    await expect(facts).to_contain_text("2 of 8 frames, 1 failed")
    await expect(facts).to_contain_text("left")

    await desk.served.report(run_id, {"type": "unit_approved", "data": {"unit": "f3", "index": 3}})

    await expect(facts).to_contain_text("3 of 8 frames")
    await expect(desk.page.get_by_role("progressbar", name="frames done")).to_have_attribute("value", "3")


async def test_req9_error_with_stack(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req9")
    error = {"code": "SYS_WRITE_ERROR", "message": "disk full", "stack_trace": "line 1\nline 2"}
    await desk.served.control(run_id, "fail", reason_code="SYS_WRITE_ERROR", error=error)

    await desk.go(f"/runs/{run_id}")

    await expect(desk.page.get_by_role("alert")).to_contain_text("disk full")
    await desk.page.get_by_text("Stack trace").click()
    await expect(desk.page.locator("section.error pre")).to_have_text("line 1\nline 2")


async def test_req10_payload(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req10", payload={"levels": ["meadow", {"seed": 7}]})

    await desk.go(f"/runs/{run_id}?tab=data")

    await expect(desk.page.locator(".json").first).to_contain_text("meadow")
    await desk.page.locator(".json").first.get_by_text("{...}").click()
    await expect(desk.page.locator(".json").first).to_contain_text("seed: 7")


async def test_req11_step_id_skill_status_duration(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x611, ago=2 * MINUTE)
    await desk.go(f"/runs/{run_id}?tab=steps")

    await desk.page.locator("[data-step=tileset]").click()

    panel = desk.page.get_by_role("dialog")
    for text in ("Step tileset", "Skilldraw", "Completed", "Took34.0 s"):
        await expect(panel).to_contain_text(text)


async def test_req12_json_of_a_step(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x612, ago=2 * MINUTE)

    await desk.go(f"/runs/{run_id}?tab=steps&step=player_sprite")

    trees = desk.page.get_by_role("dialog").locator(".json")
    await expect(trees.nth(0)).to_contain_text('style: "ember"')
    await expect(trees.nth(1)).to_contain_text("sprites/player.png")
    await trees.nth(0).locator(".vjs-carets").first.click()
    await expect(trees.nth(0)).not_to_contain_text("ember")


async def test_req13_artifact_links_of_a_step(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x613, ago=2 * MINUTE)
    path = f"/api/runs/{run_id}/artifacts/tiles.json?step=tileset"
    await desk.served.ask("PUT", path, data=b"[]", headers={"Content-Type": "application/json"})
    await desk.go(f"/runs/{run_id}?tab=steps&step=tileset")

    async with desk.page.expect_download() as waited:
        await desk.page.get_by_role("dialog").get_by_role("link", name="tiles.json").click()

    assert (await (await waited.value).path()).read_bytes() == b"[]"


async def test_req14_cache_of_a_step(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x614, ago=2 * MINUTE)

    await desk.go(f"/runs/{run_id}?tab=steps&step=bgm_track")
    await expect(desk.page.get_by_role("dialog")).to_contain_text("Cachehit")
    await desk.go(f"/runs/{run_id}?tab=steps&step=tileset")

    await expect(desk.page.get_by_role("dialog")).to_contain_text("Cachenot used")


async def test_req15_attempts_of_a_step(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x615, ago=2 * MINUTE)

    await desk.go(f"/runs/{run_id}?tab=steps&step=enemy_sprite")

    tries = desk.page.get_by_role("dialog").locator("tbody tr")
    await expect(tries.nth(0)).to_contain_text("Failed: frame 4 lost its palette")
    await expect(tries.nth(1)).to_contain_text("Completed")


async def test_req16_refresh_while_running(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req16")
    # Without a stream the page asks again every five seconds, as long as the run goes on.
    async with desk.another() as other:
        await other.page.route("**/api/stream", lambda route: route.abort())
        await other.page.clock.install()
        await other.show(f"/runs/{run_id}")
        await expect(other.page.get_by_text("Reconnecting")).to_be_visible()
        await expect(other.page.locator("header.head [data-status]")).to_have_text("Running")
        await desk.served.control(run_id, "pause")

        await other.page.clock.run_for(5_000)

        await expect(other.page.locator("header.head [data-status]")).to_have_text("Paused")


async def test_req17_live_stream(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req17")
    await desk.go(f"/runs/{run_id}?tab=events")
    await expect(desk.page.get_by_text("Live", exact=True)).to_be_visible()
    await expect(desk.page.locator("li[id^=e]")).to_have_count(2)

    await desk.served.report(run_id, *(note(number) for number in range(20)))

    await expect(desk.page.locator("li[id^=e]")).to_have_count(22)
    await expect(desk.page.locator("#e22")).to_contain_text("message 19")


async def test_req18_toast(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req18")
    await desk.go(f"/runs/{run_id}")
    await expect(desk.page.get_by_text("Live", exact=True)).to_be_visible()
    await expect(desk.page.locator("header.head [data-status]")).to_have_text("Running")

    answer = await desk.served.control(run_id, "fail", message="out of paint")
    assert answer.status == 202, await answer.text()

    await expect(desk.page.locator(".toast")).to_contain_text("req18: failed")
    await expect(desk.page.locator(".toast")).to_contain_text("out of paint")
    await desk.page.get_by_role("button", name="Take this away").click()
    await expect(desk.page.locator(".toast")).to_have_count(0)


async def test_req19_retry(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="req19")
    await desk.served.control(run_id, "fail")
    await desk.go(f"/runs/{run_id}")

    await desk.page.get_by_role("button", name="Retry", exact=True).click()
    await desk.page.get_by_role("button", name="Retry the whole run").click()

    await expect(desk.page.get_by_role("link", name="Retry of an earlier run")).to_be_visible()
    listed = await (await desk.served.ask("GET", "/api/runs?q=req19")).json()
    assert [item["lineage"]["retry_of"] for item in listed["items"]] == [run_id, None]


async def test_req20_partial_retry(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x620, ago=30 * MINUTE, ends="failed")
    await desk.go(f"/runs/{run_id}?tab=graph")

    await desk.page.locator("[data-node=enemy_sprite]").hover()
    await expect(desk.page.get_by_text("4 of 8 would run again from enemy_sprite")).to_be_visible()
    await desk.page.locator("[data-node=enemy_sprite]").click()
    await desk.page.get_by_role("button", name="Retry from here").click()
    dialog = desk.page.get_by_role("alertdialog")
    await expect(dialog.locator("[data-plan]")).to_contain_text("4 reused, 4 run again")
    await expect(dialog.locator("tr", has_text="manifest")).to_contain_text("it rests on enemy_sprite")
    await dialog.get_by_role("button", name="Retry from enemy_sprite").click()

    await expect(desk.page.get_by_role("link", name="Retry of an earlier run")).to_be_visible()
    await desk.page.get_by_role("tab", name="Steps").click()
    await expect(desk.page.locator("[data-step=tileset]")).to_contain_text("From the cache")
    await expect(desk.page.locator("[data-step=enemy_sprite]")).to_contain_text("Pending")


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_req21_cancel(desk: Screen, status: str) -> None:
    if status == "queued":
        run_id = await write(desk.served.log, name(0x621), 5, [], driver="queue", title="req21", workflow="w")
    else:
        run_id = await desk.served.open_run(title="req21")
    await desk.go(f"/runs/{run_id}")

    await desk.page.get_by_role("button", name="Cancel").click()
    await desk.page.get_by_role("alertdialog").get_by_role("button", name="Cancel the run").click()

    await expect(desk.page.locator("header.head [data-status]")).to_have_text("Cancelled")
    assert (await (await desk.served.ask("GET", f"/api/runs/{run_id}")).json())["status"] == "cancelled"


async def test_req22_confirmation(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x622, ago=2 * MINUTE)
    before = (await (await desk.served.ask("GET", f"/api/runs/{run_id}")).json())["version"]
    dialog = desk.page.get_by_role("alertdialog")
    await desk.go(f"/runs/{run_id}")
    await desk.page.get_by_role("button", name="Cancel").click()
    await expect(dialog.get_by_role("button", name="Keep it as it is")).to_be_focused()
    await desk.page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await desk.go(f"/runs/{run_id}?tab=steps&step=game_config")

    await desk.page.get_by_role("button", name="Reset").click()
    await expect(dialog).to_contain_text("7 steps that rest on it are done again too")
    await desk.page.keyboard.press("Escape")

    await expect(dialog).to_be_hidden()
    assert (await (await desk.served.ask("GET", f"/api/runs/{run_id}")).json())["version"] == before


async def test_req23_cross_tenant(desk: Screen) -> None:
    theirs = await desk.served.open_run(title="req23 of another house", token=OTHER)
    await desk.go("/admin")

    await desk.page.get_by_role("button", name="Look inside other").click()

    await expect(desk.page.locator(f"[data-run={theirs}]")).to_contain_text("req23 of another house")
    await desk.page.get_by_role("link", name="req23 of another house").click()
    await expect(desk.page.get_by_role("heading", name="req23 of another house")).to_be_visible()
    await desk.page.get_by_role("button", name="Leave tenant other").click()
    await expect(desk.page.get_by_role("heading", name="Runs")).to_be_visible()
    await expect(desk.page.locator(f"[data-run={theirs}]")).to_have_count(0)


async def test_req24_statistics(desk: Screen) -> None:
    await desk.served.control(await desk.served.open_run(title="req24"), "fail")

    await desk.go("/admin")

    for figure in ("Failure rate", "Mean duration", "95th percentile", "Runs created"):
        await expect(desk.page.locator("dl.facts").first).to_contain_text(figure)
    await expect(desk.page.locator("[data-day]").last).to_be_visible()


async def test_req25_queue_depth(desk: Screen) -> None:
    depth = desk.page.locator("[data-queue=depth]")
    await desk.go("/admin")
    await expect(depth).to_be_visible()
    before = int(await depth.inner_text())
    await write(desk.served.log, name(0x625), 5 * MINUTE, [], driver="queue", title="req25", workflow="w")

    await desk.page.reload()

    await expect(depth).to_have_text(str(before + 1))
    await expect(desk.page.locator("[data-queue=oldest]")).not_to_have_text("–")

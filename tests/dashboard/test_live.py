"""The pages stay true while servers die, networks go and tabs are closed."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import BrowserContext, Page, expect

from deploy.loopback import free_port
from eventstore.stopped import is_stopped
from tests.dashboard.screen import Screen
from tests.dashboard.upped import server
from tests.served import note
from tests.terminal import runfold
from tests.wires import Wire

pytestmark = pytest.mark.slow


async def test_a_killed_server_that_comes_back_costs_the_page_nothing(tmp_path: Path, page: Page) -> None:
    port = free_port()
    async with server(tmp_path, port) as first:
        await page.goto(first.link)
        run_id = (await first.ask("/api/runs/external", {"title": "outlives its server"}))["id"]
        await page.goto(f"{first.origin}/runs/{run_id}?tab=events")
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        await first.ask(f"/api/runs/{run_id}/events", {"events": [note(1)]})
        await expect(page.locator("#e3")).to_contain_text("message 1")

        await first.kill()
        await expect(page.get_by_text("Reconnecting")).to_be_visible()

    async with server(tmp_path, port) as second:
        await second.ask(f"/api/runs/{run_id}/events", {"events": [note(2), note(3)]})

        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        await expect(page.locator("li[id^=e]")).to_have_count(5)
        numbers = await page.locator("li[id^=e] .number").all_inner_texts()
        await second.ask(f"/api/runs/{run_id}/control", {"action": "complete"})
        await expect(page.locator("header.head [data-status]")).to_have_text("Completed")
    assert numbers == ["1", "2", "3", "4", "5"], "nothing is missing, nothing is there twice"


@contextlib.asynccontextmanager
async def far_away(screen: Screen) -> AsyncGenerator[Wire]:
    """The page's server is at the other end of a wire."""
    wire = Wire(urlsplit(screen.address).port or 0)
    screen.address = f"http://127.0.0.1:{await wire.start()}"
    try:
        await screen.log_in()
        yield wire
    finally:
        await wire.close()
    screen.problems.clear()  # The browser itself tells of what could not be asked for.


async def test_a_network_that_went_away_is_made_up_for(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="on the train")
    async with far_away(screen) as wire:
        await screen.show(f"/runs/{run_id}?tab=events")
        await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()

        await screen.page.context.set_offline(True)
        wire.cut()
        await expect(screen.page.get_by_text("Reconnecting")).to_be_visible()
        await screen.served.report(run_id, note(1), note(2))
        wire.mend()
        await screen.page.context.set_offline(False)

        await expect(screen.page.locator("li[id^=e]")).to_have_count(4)
        await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()


@contextlib.asynccontextmanager
async def asleep(page: Page) -> AsyncGenerator[None]:
    """The processes that draw the browser's pages stand still; chosen by what the browser says of its own."""
    browser = page.context.browser
    assert browser is not None
    debugger: Any = await browser.new_browser_cdp_session()
    processes = (await debugger.send("SystemInfo.getProcessInfo"))["processInfo"]
    drawing = [process["id"] for process in processes if process["type"] == "renderer"]
    assert drawing
    try:
        for pid in drawing:
            os.kill(pid, signal.SIGSTOP)
        while not all(map(is_stopped, drawing)):
            await asyncio.sleep(0)
        yield
    finally:
        for pid in drawing:
            os.kill(pid, signal.SIGCONT)
        await debugger.detach()


async def test_a_page_that_slept_goes_on_without_a_gap_or_a_repeat(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="over night")
    async with far_away(screen) as wire:
        await screen.show(f"/runs/{run_id}?tab=events")
        await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
        await expect(screen.page.locator("li[id^=e]")).to_have_count(2)
        # As a closed laptop leaves it: no script runs, no timer, and its connections die unseen.
        async with asleep(screen.page):
            await screen.served.report(run_id, note(1), note(2))
            wire.cut()
            await screen.served.report(run_id, note(3))
            wire.mend()

        await expect(screen.page.locator("#e5")).to_contain_text("message 3")
        await screen.served.report(run_id, note(4))
        await expect(screen.page.locator("#e6")).to_contain_text("message 4")
        numbers = await screen.page.locator("li[id^=e] .number").all_inner_texts()
    assert numbers == ["1", "2", "3", "4", "5", "6"]


async def test_a_page_whose_place_in_the_log_is_gone_reads_anew(tmp_path: Path, page: Page) -> None:
    """A data folder that is put back as it was: the server answers 410 to who has seen more than it holds."""
    port, data, kept = free_port(), tmp_path / "data", tmp_path / "kept"
    refused: list[int] = []
    page.on("response", lambda answer: refused.append(answer.status) if "/api/stream" in answer.url else None)
    async with server(data, port) as first:
        await page.goto(first.link)
        run_id = (await first.ask("/api/runs/external", {"title": "put back"}))["id"]
        await page.goto(f"{first.origin}/runs/{run_id}")
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        backup = await asyncio.to_thread(runfold, data, "backup", str(kept))
        assert backup.returncode == 0, backup.stderr
        await first.ask(f"/api/runs/{run_id}/control", {"action": "complete"})
        await expect(page.locator("header.head [data-status]")).to_have_text("Completed")
        await first.kill()
        await expect(page.get_by_text("Reconnecting")).to_be_visible()
    back = tmp_path / "back"
    restored = await asyncio.to_thread(runfold, back, "restore", str(kept))
    assert restored.returncode == 0, restored.stderr
    for name in ("token", "sessions.json"):
        shutil.copy(data / name, back / name)

    async with server(back, port):
        await expect(page.locator("header.head [data-status]")).to_have_text("Running")
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()

    assert 410 in refused


async def test_many_tabs_are_one_stream_which_the_next_tab_takes_over_without_a_gap(
    screen: Screen, context: BrowserContext
) -> None:
    run_id = await screen.served.open_run(title="many tabs")
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
    opened: list[str] = []
    context.on("request", lambda request: opened.append(request.url) if "/api/stream" in request.url else None)
    tabs = [screen.page, *[await context.new_page() for _ in range(4)]]
    for tab in tabs:
        await tab.goto(f"{screen.address}/runs/{run_id}?tab=events")
        await expect(tab.get_by_text("Live", exact=True)).to_be_visible()
    assert len(opened) == 1

    await screen.page.close()
    await screen.served.report(run_id, note(1), note(2))

    for tab in tabs[1:]:
        await expect(tab.locator("li[id^=e]")).to_have_count(4)
    assert len(opened) == 2


async def test_the_stream_begins_where_the_page_was_read_not_at_the_start_of_the_log(screen: Screen) -> None:
    run_id = await screen.served.open_run(title="long history")
    await screen.served.report(run_id, *(note(number) for number in range(300)))
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()
    begun: list[str] = []
    screen.page.on(
        "request", lambda it: begun.append(it.headers.get("last-event-id", "")) if "/api/stream" in it.url else None
    )

    await screen.page.reload()
    await expect(screen.page.get_by_text("Live", exact=True)).to_be_visible()

    last = await screen.served.log.last(run_id)
    assert last is not None
    assert begun == [str(last.position)]

"""Measures the dashboard in a browser: a run of 50,000 events, the list of 100,000 runs, and a tab that listens."""

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from playwright.async_api import Browser, Page, async_playwright

from api.app import make_login_code
from bench.filling import fill, run_name, story
from bench.listing import LIST_MS_MAX, RUNS, runs
from bench.scoreboard import Figure, figure, show
from bench.serving import TOKEN, open_ours, serve
from projections.engine.rebuilding import rebuild
from runfold.events import Event

EVENTS = 50_000
LONG = run_name(RUNS)
TABS = {  # What has to be there before somebody can use the tab.
    "timeline": "section.timeline .row",
    "events": "li[id^=e]",
    "cost": "[data-cost]",
    "history": "tr[data-status]",
    "data": ".data",
}
ROUNDS = 7
USABLE_MS_MAX = 1_000.0
ARRIVING, TOGETHER = 2_000, 200  # Events that come while the tab is open, and how many of them at once.
GROWTH_MAX = 1.3
WARM = 2_000  # Events before the first measure: more than the page keeps of those that came live.


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds until the tab could be used; what the browser and the server worked for it; what was sent."""

    usable_ms: float
    browser_ms: float
    server_ms: float
    requests: int
    kilobytes: float
    nodes: int


def events() -> Iterator[tuple[str, Event]]:
    long = story(random.Random(7), RUNS, size=EVENTS)
    return chain(runs(), ((LONG, event) for event in long))


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[tuple[Browser, str, Any]]:
    async with AsyncExitStack() as stack:
        app, _ = await open_ours(stack, folder)
        port = await serve(stack, app)
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        stack.push_async_callback(browser.close)
        yield browser, f"http://127.0.0.1:{port}", app


async def visit(page: Page, address: str, shown: str) -> Opened:
    """Open a page anew and wait until it can be used."""
    debugger: Any = await page.context.new_cdp_session(page)
    sizes: list[float] = []
    await debugger.send("Network.enable")

    def loaded(said: dict[str, Any]) -> None:
        sizes.append(float(said["encodedDataLength"]))

    debugger.on("Network.loadingFinished", loaded)
    await debugger.send("Performance.enable")
    await page.goto("about:blank")
    before, server = await _worked_ms(debugger), time.process_time()
    sizes.clear()
    began = time.perf_counter()
    await page.goto(address)
    await page.locator(shown).first.wait_for()
    usable_ms = 1_000 * (time.perf_counter() - began)
    nodes: int = await page.evaluate("document.querySelectorAll('*').length")
    found = Opened(
        usable_ms=usable_ms,
        browser_ms=await _worked_ms(debugger) - before,
        server_ms=1_000 * (time.process_time() - server),
        requests=len(sizes),
        kilobytes=sum(sizes) / 1_000,
        nodes=nodes,
    )
    await debugger.detach()
    return found


async def _worked_ms(debugger: Any) -> float:
    metrics: list[dict[str, Any]] = (await debugger.send("Performance.getMetrics"))["metrics"]
    return 1_000 * sum(float(it["value"]) for it in metrics if it["name"] == "TaskDuration")


async def heap_megabytes(page: Page) -> float:
    debugger: Any = await page.context.new_cdp_session(page)
    await debugger.send("HeapProfiler.collectGarbage")
    used = (await debugger.send("Runtime.getHeapUsage"))["usedSize"]
    await debugger.detach()
    return float(used) / 1_000_000


async def listen(page: Page, address: str, rounds: int = 3) -> list[float]:
    """The memory of a tab that shows a run, after each two thousand events that came."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    sizes: list[float] = []
    async with aiohttp.ClientSession(address, headers=headers) as session:
        async with session.post("/api/runs/external", json={"title": "busy"}) as answer:
            run_id = (await answer.json())["id"]
        await page.goto(f"{address}/runs/{run_id}?tab=events")
        version = 0
        for number in range(1 + rounds):
            for _ in range(0, WARM if number == 0 else ARRIVING, TOGETHER):
                body = {"events": [{"type": "message", "data": {"text": f"m {n}"}} for n in range(TOGETHER)]}
                async with session.post(f"/api/runs/{run_id}/events", json=body) as answer:
                    version = (await answer.json())["version"]
            await page.locator(f"#e{version}").wait_for(state="attached")
            sizes.append(await heap_megabytes(page))
    return sizes[1:]


async def ask(folder: Path) -> tuple[dict[str, list[Opened]], list[float]]:
    async with opened(folder) as (browser, address, app):
        page = await (await browser.new_context(viewport={"width": 1280, "height": 800})).new_page()
        await page.goto(f"{address}/login?code={make_login_code(app)}")
        places = {"list": ("/runs", "tbody tr")}
        places |= {tab: (f"/runs/{LONG}?tab={tab}", shown) for tab, shown in TABS.items()}
        found: dict[str, list[Opened]] = {name: [] for name in places}
        for _ in range(ROUNDS):
            for name, (path, shown) in places.items():
                found[name].append(await visit(page, address + path, shown))
        return found, await listen(page, address)


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as name:
        fill(Path(name), events())
        rebuild(Path(name))
        found, sizes = asyncio.run(ask(Path(name)))
    for place, visits in found.items():
        of = f"list of {RUNS:,} runs" if place == "list" else f"{place} of {EVENTS:,} events"
        ceiling = LIST_MS_MAX if place == "list" else None
        yield figure(f"{of}, usable p50", "ms", [it.usable_ms for it in visits], ceiling=USABLE_MS_MAX)
        yield figure(f"{of}, work of the browser", "ms", [it.browser_ms for it in visits])
        yield figure(f"{of}, work of the server", "ms", [it.server_ms for it in visits], ceiling=ceiling)
        yield figure(f"{of}, requests", "", [it.requests for it in visits])
        yield figure(f"{of}, sent", "kB", [it.kilobytes for it in visits])
        yield figure(f"{of}, elements", "", [it.nodes for it in visits])
    yield figure(
        f"tab after {ARRIVING:,} events more", "of before", [it / sizes[0] for it in sizes], ceiling=GROWTH_MAX
    )


if __name__ == "__main__":
    sys.exit(show(measure()))

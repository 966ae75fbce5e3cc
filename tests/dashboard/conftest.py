"""One Chromium and one event loop for a worker's tests; `desk` is a module's shared page, `screen` a test's own.

A server and a browser's profile of its own cost more than most tests: `screen` is for what is said of all runs.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from api.dashboard import BUNDLE
from tests.dashboard.screen import DESK, PERSON, Screen
from tests.served import Served, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
START_SECONDS_MAX = 60
expect.set_options(timeout=20_000)  # Milliseconds; a busy machine is slow, not wrong.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None
    if not (BUNDLE / "index.html").is_file():
        reason = "no dashboard is built: `python hatch_build.py` builds it"
    elif CHROMIUM is None:
        reason = "no Chromium is installed"
    for item in items:
        if "tests/dashboard/" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group("browser"))
            if pytest_asyncio.is_async_test(item):
                # What is connected to the browser lives on one loop, or each test would have to connect anew.
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser that runs as long as the tests do."""
    profile = tmp_path_factory.mktemp("chromium")
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    try:
        yield _address(profile / "DevToolsActivePort", process)
    finally:
        process.terminate()
        process.wait()


def _address(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        if port_file.is_file() and "\n" in (text := port_file.read_text()):
            port, path = text.split("\n")[:2]
            return f"ws://127.0.0.1:{port}{path}"
        time.sleep(0.02)
    sys.exit(f"{CHROMIUM} did not start")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        yield await playwright.chromium.connect_over_cdp(chromium)


@pytest_asyncio.fixture(loop_scope="session")
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(**PERSON)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


@pytest_asyncio.fixture(loop_scope="session")
async def screen(served: Served, page: Page) -> AsyncIterator[Screen]:
    """The dashboard, logged in as the admin; at the end nothing may have gone wrong in it or left the origin."""
    screen = Screen(page, served)
    await screen.log_in()
    yield screen
    assert screen.problems == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Screen]:
    """One server and one page, logged in as the admin, for the tests of a module; each brings runs of its own."""
    async with serving(tmp_path_factory.mktemp("house")) as served:
        context = await browser.new_context(**PERSON)
        screen = Screen(await context.new_page(), served)
        await screen.log_in()
        yield screen
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def desk(house: Screen) -> AsyncIterator[Screen]:
    """The shared page; after each test nothing may have gone wrong in it."""
    await house.page.set_viewport_size(DESK)
    house.problems.clear()
    yield house
    assert house.problems == []

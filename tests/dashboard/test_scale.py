"""A long run and a busy one: the page is soon there and does not grow. RUNFOLD_TORTURE=1 takes the long form."""

import time
from typing import Any

import pytest
from playwright.async_api import Page, expect

from runfold.events import Message, RunQueued, RunStarted
from tests.dashboard.screen import Screen
from tests.effort import IS_LONG
from tests.histories import new_event
from tests.served import note

pytestmark = pytest.mark.slow
EVENTS = 50_000 if IS_LONG else 4_000
APPEND_EVENTS = 500
ARRIVING = 2_000 if IS_LONG else 800
REPORTED_AT_ONCE = 200
USABLE_SECONDS_MAX = 10.0  # On a busy machine; what is meant is one second, and the test prints what it was.
GROWTH_MAX = 1.3


async def heap_bytes(page: Page) -> int:
    debugger: Any = await page.context.new_cdp_session(page)
    await debugger.send("HeapProfiler.collectGarbage")
    used: int = (await debugger.send("Runtime.getHeapUsage"))["usedSize"]
    await debugger.detach()
    return used


@pytest.mark.timeout(300)
async def test_a_run_of_many_events_is_soon_on_the_page_and_the_tab_does_not_grow_with_what_comes(
    screen: Screen,
) -> None:
    run_id, expected = "r_" + "b" * 26, 0
    started = [RunQueued(driver="reported", title="a long one"), RunStarted()]
    now_us = time.time_ns() // 1_000
    for first in range(0, EVENTS, APPEND_EVENTS):
        events = [*(started if first == 0 else ()), *(Message(text=f"m {first + n}") for n in range(APPEND_EVENTS - 2))]
        new = [new_event(event, at_us=now_us, tenant="default") for event in events]
        expected = (await screen.served.log.append(run_id, new, expected=expected)).last
    await screen.served.ask("GET", f"/api/runs/{run_id}")  # The views have caught up.

    looked: list[float] = []
    # It is little where the machine is busy with something else: then once more.
    while len(looked) < 3 and not (looked and looked[-1] < USABLE_SECONDS_MAX):
        began = time.monotonic()
        await screen.show(f"/runs/{run_id}?tab=events")
        await expect(screen.page.locator("li[id^=e]").last).to_contain_text("m ")
        looked.append(time.monotonic() - began)
    took = min(looked)
    sizes: list[int] = []
    for _ in range(3):
        for _ in range(0, ARRIVING, REPORTED_AT_ONCE):
            await screen.served.report(run_id, *(note(number) for number in range(REPORTED_AT_ONCE)))
        last = (await (await screen.served.ask("GET", f"/api/runs/{run_id}")).json())["version"]
        await expect(screen.page.locator(f"#e{last}")).to_be_attached()
        sizes.append(await heap_bytes(screen.page))

    print(f"{EVENTS} events: usable after {took:.2f} s; heap {[size // 1_000_000 for size in sizes]} MB")
    assert took < USABLE_SECONDS_MAX
    # Up to so many live events are kept; from then on each new one takes the place of an old one.
    assert not IS_LONG or sizes[2] < sizes[1] * GROWTH_MAX

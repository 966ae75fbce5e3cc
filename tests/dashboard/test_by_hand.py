"""What was started by hand in a terminal is repeated from the page where that is allowed, else shown to be typed."""

import asyncio
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from runner import machine
from tests.dashboard.screen import PERSON
from tests.dashboard.upped import Server, server
from tests.terminal import read, runfold, started

pytestmark = pytest.mark.slow
AGAIN = """import os, sys, time
if os.path.exists("go"):
    sys.exit(0)
open("go", "w").close()
print("go", flush=True)
time.sleep(60)
"""


async def log_in(page: Page, at: Server, token: str) -> None:
    await page.goto(f"{at.origin}/runs")
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Runs")).to_be_visible()


def stopped_by_ctrl_c(data: Path) -> str:
    """A command that a terminal started, and that was interrupted with it; its id."""
    with started(data, "run", "--", sys.executable, "-c", AGAIN, cwd=data.parent) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        process.wait(30)
    return str(read(data, "ps", "-a")["items"][0]["id"])


async def test_what_was_typed_is_repeated_for_its_admin_and_shown_to_be_typed_by_anybody_else(
    browser: Browser, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    operator_token = str(read(data, "token", "create", "--role", "operator")["secret"])
    await asyncio.to_thread(runfold, data, "run", "--quiet", "--", "sh", "-c", "exit 3", cwd=tmp_path)
    failed = str(read(data, "ps", "-a")["items"][0]["id"])
    stopped = await asyncio.to_thread(stopped_by_ctrl_c, data)
    people = [await browser.new_context(**PERSON) for _ in range(2)]
    operator, admin = [await person.new_page() for person in people]
    async with server(data) as at:
        await log_in(operator, at, operator_token)
        await operator.goto(f"{at.origin}/runs/{failed}")
        await operator.get_by_role("button", name="Retry", exact=True).click()
        dialog = operator.get_by_role("alertdialog")
        await expect(dialog).to_contain_text(f"as {machine.account()}")
        await expect(dialog.locator("code")).to_have_text(f"runfold retry {failed}")
        await expect(dialog.get_by_role("button", name="Retry the whole run")).to_have_count(0)
        await operator.goto(f"{at.origin}/runs/{stopped}")
        await operator.get_by_role("button", name="Resume").click()
        await expect(dialog.locator("code")).to_have_text(f"runfold resume {stopped}")

        await admin.goto(at.link)
        await admin.goto(f"{at.origin}/runs/{failed}")
        await admin.get_by_role("button", name="Retry", exact=True).click()
        await expect(admin.locator("[data-repeats]")).to_have_text("sh -c exit 3")
        await admin.get_by_role("button", name="Retry the whole run").click()
        await expect(admin.get_by_role("link", name="Retry of an earlier run")).to_be_visible()
        await expect(admin.locator("header.head [data-status]")).to_have_text("Failed")
        await admin.goto(f"{at.origin}/runs/{stopped}")
        await admin.get_by_role("button", name="Resume").click()
        await expect(admin.locator(".toast")).to_contain_text("The server repeats the command")
        await expect(admin.locator("header.head [data-status]")).to_have_text("Completed")

    turns = [
        event["data"].get("exit_code")
        for event in read(data, "events", stopped)["items"]
        if event["type"] == "turn_completed"
    ]
    assert turns == [0]
    for person in people:
        await person.close()

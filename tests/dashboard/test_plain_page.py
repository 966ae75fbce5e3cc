"""A server without a built dashboard still shows what goes on, and how to build one."""

import shutil
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.upped import server
from tests.terminal import ROOT

pytestmark = pytest.mark.slow
PACKAGES = ("runfold", "eventstore", "projections", "runner", "api", "cli")


async def test_without_a_built_dashboard_the_runs_are_listed_live_and_the_way_to_build_it_is_told(
    tmp_path: Path, page: Page
) -> None:
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("bundle"))
    async with server(tmp_path / "data", cwd=source) as at:
        await page.goto(at.link)
        await expect(page.get_by_text("python hatch_build.py")).to_be_visible()
        await expect(page.locator("#state")).to_have_text("0 runs")

        run_id = (await at.ask("/api/runs/external", {"title": "<b>plain</b>"}))["id"]
        row = page.locator("tbody tr")
        await expect(row).to_contain_text("<b>plain</b>")
        await expect(row).to_contain_text("running")
        await at.ask(f"/api/runs/{run_id}/control", {"action": "complete"})

        await expect(row).to_contain_text("completed")

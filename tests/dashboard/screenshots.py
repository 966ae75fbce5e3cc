"""Takes the pictures of every page, in light and dark, on a desk and on a phone.

python -m tests.dashboard.screenshots [--only PAGE] [FOLDER]
"""

import argparse
import asyncio
import base64
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect

from api.service import SERVICE
from tests.dashboard.conftest import CHROMIUM, FLAGS
from tests.dashboard.screen import Screen
from tests.dashboard.stories import Past, an_ordinary_day
from tests.served import Served, serving

IMAGES = Path(__file__).parents[2] / "docs" / "images"
DESK, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
SIZE_BYTES_MAX = 60_000
FILES = (
    ("game_config", "game.json", b'{"levels": 3, "seed": 7}', "application/json"),
    ("tileset", "tiles.png", bytes(41_200), "image/png"),
    ("player_sprite", "player.png", bytes(48_112), "image/png"),
)
OUTPUT = """\x1b[1mstudio.pack\x1b[0m 0.4.1, engine pico
reading game.json \x1b[2m3 levels\x1b[0m
\x1b[32mok\x1b[0m      tiles.png          96 tiles
\x1b[32mok\x1b[0m      sprites/player.png 8 frames
\x1b[33mwarning\x1b[0m sprites/enemy.png  frame 4 was drawn again: its palette had drifted
packing 4 parts into one atlas, 1024x1024
"""
QUIET_MS = 400  # What has settled for so long is worth a picture.


def pages(runs: dict[str, str]) -> dict[str, str]:
    game, failed = runs["game"], runs["failed"]
    return {
        "runs": "/runs",
        "run": f"/runs/{game}?tab=timeline",
        "run-steps": f"/runs/{game}?tab=steps",
        "run-graph": f"/runs/{game}?tab=graph",
        "run-events": f"/runs/{game}?tab=events",
        "run-logs": f"/runs/{game}?tab=logs",
        "run-files": f"/runs/{game}?tab=files",
        "run-history": f"/runs/{failed}?tab=history",
        "run-cost": f"/runs/{game}?tab=cost",
        "run-step": f"/runs/{game}?tab=steps&step=enemy_sprite",
        "approvals": "/approvals",
        "run-failed": f"/runs/{failed}",
        "run-asking": f"/runs/{runs['asking']}",
        "run-past": f"/runs/{failed}?at=20",
        "compare": f"/compare?a={runs['built']}&b={failed}",
        "audit": "/audit",
        "costs": "/costs",
        "admin": "/admin",
        "tokens": "/tokens",
        "api": "/api/docs",
    }


async def filled(served: Served, past: Past) -> dict[str, str]:
    """An ordinary day, with output, files and tokens."""
    runs = await an_ordinary_day(past.writing(served.log))
    for name, role in (("ci", "operator"), ("mira", "admin"), ("wall-display", "viewer")):
        await served.ask("POST", "/api/tokens", json={"name": name, "role": role})
    await served.ask("DELETE", "/api/tokens/ci", json={"reason": "it stood in a script"})
    for step, artifact, content, media_type in FILES:
        path = f"/api/runs/{runs['game']}/artifacts/{artifact}?step={step}&media_type={media_type}"
        await served.ask("PUT", path, data=content, headers={"Content-Type": "application/octet-stream"})
    output = served.app[SERVICE].data / "runs" / runs["game"]
    output.mkdir(parents=True)
    (output / "output.log").write_text(OUTPUT)
    return runs


async def take(browser: Browser, served: Served, paths: dict[str, str], folder: Path) -> None:
    for scheme in ("light", "dark"):
        for device, size in (("", DESK), ("-phone", PHONE)):
            context = await browser.new_context(
                viewport=size, color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce"
            )
            screen = Screen(await context.new_page(), served)
            await screen.log_in()
            for name, path in paths.items():
                await screen.show(path)
                await expect(screen.page.locator(".link")).to_have_attribute("data-state", "live")
                if device and "tab=" in path and "step=" not in path:
                    # On a phone the part that the picture is of lies below the fold.
                    await screen.page.get_by_role("tablist").evaluate("list => list.scrollIntoView()")
                await screen.page.wait_for_timeout(QUIET_MS)
                await keep(screen.page, folder / f"{name}{device}-{scheme}.webp")
            for problem in screen.problems:
                print(device, scheme, problem)
            await context.close()


async def keep(page: Page, path: Path) -> None:
    """As webp, as good as it can be within the size."""
    debugger: Any = await page.context.new_cdp_session(page)
    content = b""
    for quality in range(80, 10, -10):
        taken = await debugger.send("Page.captureScreenshot", {"format": "webp", "quality": quality})
        content = base64.b64decode(taken["data"])
        if len(content) <= SIZE_BYTES_MAX:
            break
    path.write_bytes(content)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGES)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        past = Past()
        async with serving(Path(data), now_us=past.now_us) as served, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS[1:7]))
            shown = pages(await filled(served, past)).items()
            paths = {name: path for name, path in shown if not given.only or name in given.only}
            await take(browser, served, paths, given.folder)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())

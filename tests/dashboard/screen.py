"""What a person does with the dashboard, in a few words."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Page, Request, ViewportSize

from api.app import make_login_code
from api.service import SERVICE
from tests.served import Served

DESK = ViewportSize(width=1280, height=800)
# What moves is drawn anew all the time, by processors that have more to do in a test.
PERSON: Any = {"viewport": DESK, "reduced_motion": "reduce"}
FOLLOW = "path => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate', { state: null })); }"
AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"


class Screen:
    """A page, and everything on it that a person would call broken."""

    def __init__(self, page: Page, served: Served) -> None:
        self.page, self.served = page, served
        self.address = str(served.client.make_url("")).rstrip("/")
        self.data = served.app[SERVICE].data
        self.problems: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._on_request)

    async def log_in(self) -> None:
        await self.page.goto(f"{self.address}/login?code={make_login_code(self.served.app)}")

    @asynccontextmanager
    async def another(self, *, logged_in: bool = True, **options: Any) -> AsyncGenerator["Screen"]:
        """Somebody else's browser at the same server."""
        browser = self.page.context.browser
        assert browser is not None
        context = await browser.new_context(**PERSON | options)
        try:
            other = Screen(await context.new_page(), self.served)
            if logged_in:
                await other.log_in()
            yield other
        finally:
            await context.close()

    async def show(self, path: str) -> None:
        await self.page.goto(self.address + path)

    async def go(self, path: str) -> None:
        """As a link of the page does, without loading it anew: a fourth of the work."""
        await self.page.evaluate(FOLLOW, path)

    async def faults(self) -> list[str]:
        """What axe finds on the page as it is now, in the light and in the dark."""
        # Injected over the debugger's protocol: the page's own policy rightly refuses inline scripts.
        await self.page.evaluate(AXE.read_text(encoding="utf-8") + "; 0")
        await self.page.emulate_media(color_scheme="light")
        found = await self._axe({})
        await self.page.emulate_media(color_scheme="dark")
        # Pages that are told of the dark have heard of it by the next frame.
        await self.page.evaluate("() => new Promise(requestAnimationFrame)")
        # The dark changes colours and nothing else.
        found += await self._axe({"runOnly": ["color-contrast", "link-in-text-block"]})
        await self.page.emulate_media(color_scheme="null")
        return found

    async def _axe(self, options: dict[str, Any]) -> list[str]:
        asked = {"resultTypes": ["violations"], **options}  # Of what is right nobody wants to know where it stands.
        found = await self.page.evaluate("options => axe.run(options).then(result => result.violations)", asked)
        return [
            f"{fault['id']}: {fault['help']}: {node['html'][:200]}" for fault in found for node in fault["nodes"][:3]
        ]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text} at {message.location['url']}")

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.address).netloc:
            self.problems.append(f"request left the origin: {request.url}")

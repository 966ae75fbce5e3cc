"""Whatever a run says of itself is text: nothing of it runs, is fetched, or breaks a page."""

import json

import pytest
from playwright.async_api import expect

from tests.dashboard.screen import Screen

pytestmark = pytest.mark.slow
MARK = "window.__ran=1"
STRINGS = (
    # Markup that runs, where a page takes it for markup.
    f"<script>{MARK}</script>", f"<img src=x onerror={MARK}>", f"<svg onload={MARK}>",
    f"<svg><script>{MARK}</script></svg>",
    f"<iframe srcdoc='<script>parent.{MARK}</script>'>", f"<body onload={MARK}>", f"<details open ontoggle={MARK}>",
    f"<video><source onerror={MARK}>", f"<input autofocus onfocus={MARK}>", f"<a href='javascript:{MARK}'>a</a>",
    f"'><script>{MARK}</script>", f"\"><img src=x onerror={MARK}>", f"</title><script>{MARK}</script>",
    f"</textarea><script>{MARK}</script>", f"--><script>{MARK}</script>", f"]]><script>{MARK}</script>",
    f"<math><mi xlink:href='javascript:{MARK}'>", "<style>@import 'http://evil.test/a.css'</style>",
    "<link rel=stylesheet href=http://evil.test/b.css>", "<img src=http://evil.test/c.png>",
    "<base href=http://evil.test/>",
    "<meta http-equiv=refresh content='0;url=http://evil.test/'>", "<form action=http://evil.test/><button autofocus>",
    f"<object data='javascript:{MARK}'>", f"<marquee onstart={MARK}>",
    f"<noscript><p title='</noscript><img src=x onerror={MARK}>'>",
    # Templates and addresses.
    f"{{{{constructor.constructor('{MARK}')()}}}}", f"${{{MARK}}}", f"javascript:{MARK}", f"JaVaScRiPt:{MARK}",
    f"data:text/html,<script>{MARK}</script>", "vbscript:msgbox(1)", "//evil.test/d", "http://evil.test/e",
    "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "file:///etc/passwd", "\\\\evil.test\\share",
    # Names that objects have already.
    "__proto__", "constructor", "toString", "hasOwnProperty", "null", "undefined", "NaN", "-0",
    # Signs that steer terminals and scripts.
    "\x1b[31mred\x1b[0m", "\x1b]8;;http://evil.test/f\x07click\x1b]8;;\x07", "\x1b[2J\x1b[H", "\x9b31m", "a\rb\nc\td",
    "\u202egnp.exe", "\u2066\u202eabc\u2069", "\u200b\u200c\u200d\ufeff",
    "a\u0300" + "\u0300" * 200, "\ud7ff\ue000\U0010ffff",
    "שלום مرحبا", "👩‍👩‍👧‍👦" * 20, "ｆｕｌｌ", "\u2028\u2029",
    # Shapes that break a layout.
    "W" * 900, "a b " * 240, "\n" * 200, "." * 900,
)  # fmt: skip
LONG = "five million " * 385_000
PAGES = ("timeline", "steps", "graph", "events", "logs", "files", "cost", "history", "data")


@pytest.fixture
def screen(desk: Screen) -> Screen:
    """A server and a page for all of them: each looks at a run of its own."""
    return desk


async def hostile_run(screen: Screen, text: str) -> str:
    """A run that says the same everywhere it may say something."""
    served = screen.served
    short, name = text[:900], text[:90].strip() or "blank"
    run_id = await served.open_run(
        title=short, workflow=name, labels={name: short[:200]}, payload={name: [text[:20_000]]},
        context={"c": text[:20_000]}, steps=[{"id": "first"}], unit_name="unit", units_total=2,
    )  # fmt: skip
    happened = [
        {"type": "step_started", "data": {"step": "first", "skill": name, "input": {name: short}}},
        {
            "type": "step_failed",
            "data": {"step": "first", "error": {"code": "SYS_X", "message": short, "stack_trace": short}},
        },
        {"type": "tool_called", "data": {"call_id": "c", "tool": name, "arguments": {"a": short}}},
        {"type": "message", "data": {"text": text[:30_000]}},
        {"type": "unit_started", "data": {"unit": name, "index": 0, "action": short}},
        {"type": "file_written", "data": {"path": short}},
        {"type": "token_usage", "data": {"model": name, "input_tokens": 1, "cost_micros": 5, "step": "first"}},
        {"type": "context_set", "data": {"key": name, "value": short}},
        {"type": "made_up_by_them", "data": {"t": short}},
    ]
    if (await served.report(run_id, *happened)).status != 200:
        for event in happened:
            # What the server itself refuses cannot be shown by any page.
            await served.report(run_id, event)
    await served.ask("POST", f"/api/runs/{run_id}/notes", json={"text": short})
    await served.ask("POST", f"/api/runs/{run_id}/approvals", json={"kind": name, "summary": short})
    output = screen.data / "runs" / run_id
    output.mkdir(parents=True)
    (output / "output.log").write_bytes(text.encode("utf-8", "surrogatepass") + b"\n")
    return run_id


async def found_wrong(screen: Screen, where: str) -> list[str]:
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    ran, overflow = await screen.page.evaluate(f"[window.__ran ?? null, {wide}]")
    # The browser itself tells of an output that is not there, or not longer yet.
    found = [f"{where}: {problem}" for problem in screen.problems if "Failed to load resource" not in problem]
    screen.problems.clear()
    if ran is not None:
        found.append(f"{where}: something ran")
    if overflow > 0:
        found.append(f"{where}: {overflow} pixels wider than the screen")
    return found


@pytest.mark.timeout(240)
async def test_sixty_hostile_strings_are_text_on_every_page(screen: Screen) -> None:
    assert len(STRINGS) >= 60
    await screen.page.set_viewport_size({"width": 360, "height": 740})
    runs = [await hostile_run(screen, text) for text in STRINGS]
    wrong: list[str] = []
    for path in ("/runs", "/audit", "/costs?by=model", "/costs?by=workflow", "/admin", "/approvals"):
        await screen.go(path)
        await expect(screen.page.locator("tbody tr, [data-approval]").first).to_be_visible()
        wrong += await found_wrong(screen, path)
    # Every string stands in one run, which is looked at everywhere; titles and errors in some runs of their own.
    whole = await screen.served.open_run(title="all", steps=[{"id": f"s{number}"} for number in range(len(STRINGS))])
    for number, text in enumerate(STRINGS):
        short = text[:900]
        await screen.served.report(
            whole,
            {"type": "step_started", "data": {"step": f"s{number}", "skill": short, "input": {short: short}}},
            {"type": "tool_called", "data": {"call_id": f"c{number}", "tool": short}},
            {"type": "message", "data": {"text": short}},
        )
    for tab in PAGES:
        await screen.go(f"/runs/{whole}?tab={tab}" + ("&step=s7" if tab == "steps" else ""))
        await expect(screen.page.locator("header.head h1").first).to_be_attached()
        wrong += await found_wrong(screen, f"{tab} of all strings")
    for number in range(0, len(runs), 5):
        await screen.go(f"/runs/{runs[number]}?tab={PAGES[number // 5 % len(PAGES)]}")
        await expect(screen.page.locator("header.head h1")).to_be_visible()
        wrong += await found_wrong(screen, json.dumps(STRINGS[number][:60]))
    await screen.go(f"/compare?a={runs[0]}&b={runs[1]}")
    await expect(screen.page.locator("[data-after]")).to_be_visible()
    wrong += await found_wrong(screen, "/compare")

    assert wrong == []


async def test_five_megabytes_of_one_line_leave_the_page_usable(screen: Screen) -> None:
    await screen.page.set_viewport_size({"width": 360, "height": 740})
    run_id = await hostile_run(screen, LONG)

    wrong: list[str] = []
    for tab in PAGES:
        await screen.go(f"/runs/{run_id}?tab={tab}")
        await expect(screen.page.get_by_role("tabpanel")).to_be_visible()
        wrong += await found_wrong(screen, tab)
    await screen.page.get_by_role("tab", name="Logs").click()
    await expect(screen.page.locator(".log .line").first).to_contain_text("five million")
    assert wrong == []

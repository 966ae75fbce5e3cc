"""Measures a page of the list over HTTP, of a hundred thousand runs, beside an aiohttp handler that answers nothing.

A page is kept ready while nothing is written; what one costs that nobody has asked for is measured beside.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from aiohttp import web

from bench.filling import TENANT, fill, run_name
from bench.post import load
from bench.scoreboard import Figure, compared, figure, show
from bench.serving import TOKEN, open_ours, serve
from projections.engine.rebuilding import rebuild
from runfold.events import Event, RunCompleted, RunFailed, RunQueued, RunStarted

RUNS = 100_000
ROUNDS = 5
REQUESTS = 400
NEW_PAGES = 50
PAGE = 50
DEEP = 1_000  # The page that keyset has to reach as soon as the first; OFFSET gets there by reading them all.
FILTER = f"/api/runs?status=completed&sort=created_at&order=desc&limit={PAGE}"
LIST_MS_MAX = 200.0


def runs() -> Iterator[tuple[str, Event]]:
    for number in range(RUNS):
        run_id = run_name(number)
        yield (
            run_id,
            RunQueued(driver="here", workflow=f"w{number % 12}", title=f"run {number}", labels={"branch": "m"}),
        )
        yield run_id, RunStarted(worker="bench", pid=1)
        if number % 10 < 7:
            yield run_id, RunCompleted(reason_code="EXIT_ZERO", exit_code=0)
        elif number % 10 < 9:
            yield run_id, RunFailed(reason_code="EXIT_NONZERO")


async def nothing(_: web.Request) -> web.Response:
    return web.Response(body=b"{}", content_type="application/json")


async def cursor_of(port: int, page: int) -> str:
    """What leads to a page, after going through all before it."""
    cursor = ""
    headers = {"Authorization": f"Bearer {TOKEN}", "Runfold-Tenant": TENANT}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session:
        for _ in range(1, page, 4):
            path = FILTER.replace(f"limit={PAGE}", f"limit={4 * PAGE}") + (f"&cursor={cursor}" if cursor else "")
            async with session.get(path) as response:
                cursor = (await response.json())["next_cursor"]
    return cursor


async def ask(folder: Path) -> dict[str, list[dict[str, float]]]:
    async with AsyncExitStack() as stack:
        app, _ = await open_ours(stack, folder)
        bare = web.Application()
        bare.router.add_get("/", nothing)
        port = await serve(stack, app)
        works = {
            "null": (await serve(stack, bare), "/"),
            "first": (port, FILTER),
            "deep": (port, f"{FILTER}&cursor={await cursor_of(port, DEEP)}"),
            "dearest": (port, FILTER.replace("created_at", "cost")),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, (at, path) in works.items():
                requests = REQUESTS // 20 if name == "dearest" else REQUESTS
                found[name].append(await load("post", at, path, 1, requests))
        for number in range(1, ROUNDS + 1):
            # Each connection asks for a page of its own, once; of nothing too, as most of that is the connection.
            new = f"{FILTER}&offset={number}" + "{n}"
            found.setdefault("new", []).append(await load("post", port, new, NEW_PAGES, NEW_PAGES))
            found.setdefault("null once", []).append(await load("post", works["null"][0], "/", NEW_PAGES, NEW_PAGES))
    return found


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as name:
        fill(Path(name), runs())
        rebuild(Path(name))
        found = asyncio.run(ask(Path(name)))
    new, once = ([NEW_PAGES / it["cpu_seconds"] for it in found.pop(name)] for name in ("new", "null once"))
    rates = {name: [it["rate"] for it in rounds] for name, rounds in found.items()}
    spent = {name: [REQUESTS / it["cpu_seconds"] for it in rounds] for name, rounds in found.items()}
    of = f"a page of {PAGE} of {RUNS:,} runs"
    yield compared(of, "1/s", rates["first"], rates["null"], beside="a handler of nothing", floor=0.45)
    yield compared(f"{of}, by CPU time", "1/s", spent["first"], spent["null"], beside="the same")
    yield compared(f"{of}, never asked for, by CPU time", "1/s", new, once, beside="nothing, asked so")
    yield compared(f"{of}, page {DEEP:,}", "1/s", rates["deep"], rates["first"], beside="page 1", floor=1 / 1.2)
    yield figure(f"{of}, p99", "ms", [it["p99_ms"] for it in found["first"]], ceiling=LIST_MS_MAX)
    yield figure(f"{of} by cost, p50", "ms", [it["p50_ms"] for it in found["dearest"]], ceiling=LIST_MS_MAX)


if __name__ == "__main__":
    sys.exit(show(measure()))

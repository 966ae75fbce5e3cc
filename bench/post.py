"""Measures events reported over HTTP beside an aiohttp handler with a bare insert of the same rows, in one run.

Run with `python -m bench.post`. The client is a process of its own; rounds of a pair stand next to each other.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from aiohttp import web

from api.app import make_app
from bench.append import Bare, by_time
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from runfold.commands import OpenReported
from runfold.events import RunQueued

ROUNDS = 3
TOKEN = "bench-token"
CONNECTIONS = 64
REQUESTS = {1: 4_000, 100: 300}  # By events a POST.
FLOORS = {1: 0.6, 100: 0.5}
P99_MS_MAX = 15.0
DATA = {"path": "src/" + "a" * 170 + ".py", "bytes": 1234, "kind": "update"}


async def serve(stack: AsyncExitStack, app: web.Application) -> int:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


async def load(mode: str, port: int, path: str, number: int, count: int, body: bytes = b"") -> dict[str, float]:
    started = time.process_time()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", mode, str(port), path, TOKEN, str(number), str(count),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    answer, _ = await process.communicate(body)
    if process.returncode:
        raise SystemExit(f"the client failed with {process.returncode}")
    figures: dict[str, float] = json.loads(answer)
    # What the server itself has spent: this holds on a busy machine too.
    return {**figures, "cpu_seconds": time.process_time() - started}


async def bare(folder: Path, size: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        log = await Bare.open(folder, by_time)
        stack.push_async_callback(log.close)
        versions: dict[str, int] = {}

        async def handle(request: web.Request) -> web.Response:
            run_id = request.match_info["run_id"]
            events = msgspec.json.decode(await request.read())["events"]
            first = versions.get(run_id, 0) + 1
            versions[run_id] = first + len(events) - 1
            last = await log.append_all(run_id, first, len(events))
            return web.Response(body=b'{"last":%d}' % last, content_type="application/json")

        app = web.Application()
        app.router.add_post("/api/runs/{run_id}/events", handle)
        port = await serve(stack, app)
        return await load("post", port, "/api/runs/r_{n}/events", CONNECTIONS, REQUESTS[size], _body(size))


async def ours(folder: Path, size: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        log = await SqliteLog.open(folder)
        stack.push_async_callback(log.close)
        views = await ViewService.open(folder)
        stack.push_async_callback(views.close)
        ledger = Ledger(log)
        opened = OpenReported(queued=RunQueued(driver="reported"))
        for number in range(CONNECTIONS):
            await ledger.execute(f"r_{number}", opened, actor="user:bench", tenant="default")
        hosts = frozenset({"127.0.0.1"})
        app = make_app(log=log, ledger=ledger, views=views, data=folder, token=TOKEN, allowed_hosts=hosts)
        port = await serve(stack, app)
        return await load("post", port, "/api/runs/r_{n}/events", CONNECTIONS, REQUESTS[size], _body(size))


def _body(size: int) -> bytes:
    return msgspec.json.encode({"events": [{"type": "file_written", "data": DATA}] * size})


def main() -> int:
    missed = False
    for size in REQUESTS:
        rounds: list[tuple[dict[str, float], dict[str, float]]] = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(prefix="runfold-bench-") as one:
                first = asyncio.run(bare(Path(one), size))
            with tempfile.TemporaryDirectory(prefix="runfold-bench-") as other:
                rounds.append((first, asyncio.run(ours(Path(other), size))))
        ratios = [mine["rate"] / theirs["rate"] for theirs, mine in rounds]
        rate = {index: statistics.median(pair[index]["rate"] * size for pair in rounds) for index in (0, 1)}
        p99 = statistics.median(mine["p99_ms"] for _, mine in rounds)
        ratio = statistics.median(ratios)
        spent = statistics.median(theirs["cpu_seconds"] / mine["cpu_seconds"] for theirs, mine in rounds)
        missed = missed or ratio < FLOORS[size]
        print(
            f"{size} events a POST, {CONNECTIONS} connections: {rate[1]:,.0f}/s / {rate[0]:,.0f}/s = {ratio:.2f}"
            f" [{min(ratios):.2f}-{max(ratios):.2f}] (floor {FLOORS[size]}); p99 {p99:.1f} ms; by CPU time {spent:.2f}"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(status)

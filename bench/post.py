"""Measures events reported over HTTP beside an aiohttp handler with a bare insert of the same rows, command and all."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from aiohttp import web

from api.service import SERVICE
from bench.append import Bare
from bench.scoreboard import Figure, compared, figure, interleaved, show
from bench.serving import TOKEN, open_ours, serve
from eventstore.rows import uuid_bytes
from runfold.commands import OpenReported
from runfold.events import RunQueued
from runfold.ordered_ids import ordered_id

ROUNDS = 3
CONNECTIONS = 64
REQUESTS = {1: 4_000, 100: 300}  # By events a POST.
FLOORS = {1: 0.6, 100: 0.5}
P99_MS_MAX = 15.0
DATA = {"path": "src/" + "a" * 170 + ".py", "bytes": 1234, "kind": "update"}


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
        log = await Bare.open(folder, ordered_id)
        stack.push_async_callback(log.close)
        versions: dict[str, int] = {}

        async def handle(request: web.Request) -> web.Response:
            run_id = request.match_info["run_id"]
            events = msgspec.json.decode(await request.read())["events"]
            first = versions.get(run_id, 0) + 1
            versions[run_id] = first + len(events) - 1
            last = await log.append_all(run_id, first, len(events), command=uuid_bytes(ordered_id()))
            return web.Response(body=b'{"last":%d}' % last, content_type="application/json")

        app = web.Application()
        app.router.add_post("/api/runs/{run_id}/events", handle)
        port = await serve(stack, app)
        return await load("post", port, "/api/runs/r_{n}/events", CONNECTIONS, REQUESTS[size], _body(size))


async def ours(folder: Path, size: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        app, _ = await open_ours(stack, folder)
        opened = OpenReported(queued=RunQueued(driver="reported"))
        for number in range(CONNECTIONS):
            await app[SERVICE].ledger.execute(f"r_{number}", opened, actor="user:bench", tenant="default")
        port = await serve(stack, app)
        return await load("post", port, "/api/runs/r_{n}/events", CONNECTIONS, REQUESTS[size], _body(size))


def _body(size: int) -> bytes:
    return msgspec.json.encode({"events": [{"type": "file_written", "data": DATA}] * size})


def measure() -> Iterator[Figure]:
    def once(work: Callable[[Path, int], Awaitable[dict[str, float]]], size: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
            return asyncio.run(work(Path(folder), size))  # type: ignore[arg-type]

    for size, floor in FLOORS.items():
        found = interleaved(ROUNDS, {"bare": lambda: once(bare, size), "ours": lambda: once(ours, size)})  # noqa: B023
        rates = {kind: [it["rate"] * size for it in found[kind]] for kind in found}
        spent = {kind: [1 / it["cpu_seconds"] for it in found[kind]] for kind in found}
        name = f"{size} a POST, {CONNECTIONS} connections"
        yield compared(
            name, "events/s", rates["ours"], rates["bare"], beside="a handler with a bare insert", floor=floor
        )
        yield compared(f"{name}, by CPU time", "1/s", spent["ours"], spent["bare"], beside="the same")
        waits = {kind: [it["p99_ms"] for it in found[kind]] for kind in found}
        yield figure(f"{name}, p99", "ms", waits["ours"], ceiling=P99_MS_MAX if size == 1 else None)
        yield compared(f"{name}, p99", "ms", waits["ours"], waits["bare"], beside="the same")


if __name__ == "__main__":
    sys.exit(show(measure()))

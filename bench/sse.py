"""Measures SSE beside a plain aiohttp handler that writes the very same bytes, in rounds that alternate.

The client is a process of its own. The plain handler writes bytes that are ready, 64 KiB a write: what is left beside
it is reading the log and encoding.
"""

import asyncio
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from aiohttp import web

from api.app import make_app
from bench.post import TOKEN, load, serve
from bench.scoreboard import Figure, compared, show
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from runfold.commands import Command, Complete, Observe, OpenReported
from runfold.events import FileWritten, RunQueued

ROUNDS = 3
CHUNK_BYTES = 64 * 1024
EVENTS = 100_000
RUN = "r_" + "a" * 26


async def _take(session: aiohttp.ClientSession, url: str, keep: bytearray) -> None:
    async with session.get(url) as response:
        async for piece in response.content.iter_any():
            keep += piece


async def resumed() -> dict[str, list[float]]:
    """MB/s of each round."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runfold-bench-")))
        log = await SqliteLog.open(folder)
        stack.push_async_callback(log.close)
        views = await ViewService.open(folder)
        stack.push_async_callback(views.close)
        ledger = Ledger(log)
        commands: list[Command] = [OpenReported(queued=RunQueued(driver="reported"))]
        commands += [
            Observe(events=tuple(FileWritten(path=f"src/{n + i}.py", bytes=n + i) for i in range(400)))
            for n in range(0, EVENTS, 400)
        ]
        for command in [*commands, Complete(reason_code="REPORTED")]:
            await ledger.execute(RUN, command, command_id=str(uuid.uuid4()), actor="user:bench", tenant="default")
        app = make_app(
            log=log, ledger=ledger, views=views, data=folder, token=TOKEN, allowed_hosts=frozenset({"127.0.0.1"})
        )
        ours = await serve(stack, app)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, read_bufsize=2**20)
        )
        ready = bytearray()
        await _take(session, f"http://127.0.0.1:{ours}/api/runs/{RUN}/stream", ready)

        async def plain(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for start in range(0, len(ready), CHUNK_BYTES):
                await response.write(ready[start : start + CHUNK_BYTES])
            return response

        bare = web.Application()
        bare.router.add_get("/", plain)
        beside = await serve(stack, bare)
        rates: dict[str, list[float]] = {"plain": [], "resume": []}
        for _ in range(ROUNDS):
            for name, port, path in (("plain", beside, "/"), ("resume", ours, f"/api/runs/{RUN}/stream")):
                figures = await load("take", port, path, 1, len(ready))
                rates[name].append(len(ready) / figures["seconds"] / 1e6)
        return rates


def measure() -> Iterator[Figure]:
    rates = asyncio.run(resumed())
    yield compared(
        f"resume of {EVENTS:,} events", "MB/s", rates["resume"], rates["plain"], beside="the same bytes", floor=0.6
    )


if __name__ == "__main__":
    sys.exit(show(measure()))

"""Measures what a client that comes back waits for, beside aiohttp handlers that write the very same bytes.

One of them reads each frame ready from a table of its own, a thousand a page; the other has all of them in memory,
which is the limit of aiohttp and the network. Every client is a process of its own.
"""

import asyncio
import sqlite3
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
from bench.scoreboard import Figure, compared, figure, show
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from runfold.commands import Command, Complete, Observe, OpenReported
from runfold.events import FileWritten, RunQueued

ROUNDS = 5
CHUNK_BYTES = 64 * 1024
PAGE_ROWS = 1_000
EVENTS = 100_000
RUN = "r_" + "a" * 26
FIRST_MS_MAX = 5.0
FLOOR = 0.6


async def _fill(log: SqliteLog) -> None:
    """One run of events of about 220 bytes of data."""
    ledger = Ledger(log)
    commands: list[Command] = [OpenReported(queued=RunQueued(driver="reported"))]
    commands += [
        Observe(
            events=tuple(
                FileWritten(path=f"src/{'a' * 170}/{n + i}.py", bytes=n + i, kind="update") for i in range(400)
            )
        )
        for n in range(0, EVENTS, 400)
    ]
    for command in [*commands, Complete(reason_code="REPORTED")]:
        await ledger.execute(RUN, command, command_id=str(uuid.uuid4()), actor="user:bench", tenant="default")


async def _take(url: str) -> bytes:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers, read_bufsize=2**20) as session, session.get(url) as response:
        return await response.read()


def _table(path: Path, ready: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("CREATE TABLE frames (position INTEGER PRIMARY KEY, frame BLOB)")
    frames = ready.split(b"\n\n")
    connection.executemany("INSERT INTO frames VALUES (?, ?)", enumerate((it + b"\n\n" for it in frames), start=1))
    connection.commit()
    return connection


def _controls(table: sqlite3.Connection, ready: bytes) -> web.Application:
    def page(after: int) -> tuple[int, bytes]:
        query = "SELECT position, frame FROM frames WHERE position > ? ORDER BY position LIMIT ?"
        rows = table.execute(query, (after, PAGE_ROWS)).fetchall()
        return (rows[-1][0] if rows else after), b"".join([frame for _, frame in rows])

    async def from_table(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        after, content = await asyncio.to_thread(page, 0)
        while content:
            await response.write(content)
            after, content = await asyncio.to_thread(page, after)
        return response

    async def from_memory(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(ready), CHUNK_BYTES):
            await response.write(ready[start : start + CHUNK_BYTES])
        return response

    app = web.Application()
    app.router.add_get("/table", from_table)
    app.router.add_get("/memory", from_memory)
    return app


async def resumed() -> tuple[int, dict[str, list[dict[str, float]]]]:
    """The bytes of all frames, and the figures of each round."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runfold-bench-")))
        log = await SqliteLog.open(folder)
        stack.push_async_callback(log.close)
        views = await ViewService.open(folder)
        stack.push_async_callback(views.close)
        await _fill(log)
        hosts = frozenset({"127.0.0.1"})
        app = make_app(log=log, ledger=Ledger(log), views=views, data=folder, token=TOKEN, allowed_hosts=hosts)
        ours, path = await serve(stack, app), f"/api/runs/{RUN}/stream"
        ready = await _take(f"http://127.0.0.1:{ours}{path}")
        table = _table(folder / "frames.db", ready)
        stack.callback(table.close)
        beside = await serve(stack, _controls(table, ready))
        works = {"table": (beside, "/table"), "resume": (ours, path), "memory": (beside, "/memory")}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, (port, path) in works.items():
                found[name].append(await load("take", port, path, 1, len(ready)))
        return len(ready), found


def measure() -> Iterator[Figure]:
    size, found = asyncio.run(resumed())
    rates = {name: [size / it["seconds"] / 1e6 for it in figures] for name, figures in found.items()}
    name = f"resume of {EVENTS:,} events"
    mine = rates["resume"]
    yield compared(name, "MB/s", mine, rates["table"], beside="ready frames from a table", floor=FLOOR)
    yield compared(name, "MB/s", mine, rates["memory"], beside="ready bytes from memory")
    yield figure(name, "events/s", [EVENTS / it["seconds"] for it in found["resume"]])
    spent = {kind: [1 / it["cpu_seconds"] for it in figures] for kind, figures in found.items()}
    yield compared(f"{name}, by CPU time", "1/s", spent["resume"], spent["table"], beside="ready frames from a table")
    yield figure(f"{name}, first event", "ms", [it["first_ms"] for it in found["resume"]], ceiling=FIRST_MS_MAX)


if __name__ == "__main__":
    sys.exit(show(measure()))

"""Measures what a client that comes back waits for, beside aiohttp handlers that write the very same bytes.

One of them is how the peers do it: it reads the id and the payload of each event from a table of its own, a thousand a
page in a thread, and formats the frames of them, where the payload is our envelope as it is sent. The others read ready
frames from a table, and have all of them in memory, which is the limit of aiohttp and the network. Every client is a
process of its own. The first client finds no frames ready, all others do; after a start all events are checked, too.
"""

import asyncio
import json
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import aiohttp
from aiohttp import web

from bench.post import load
from bench.scoreboard import Figure, compared, figure, show
from bench.serving import TOKEN, open_ours, serve
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.views import Views
from runfold.commands import Command, Complete, Observe, OpenReported
from runfold.events import FileWritten, RunQueued

ROUNDS = 5
CHUNK_BYTES = 64 * 1024
PAGE_ROWS = 1_000
EVENTS = 100_000
RUN = "r_" + "a" * 26
PATH = f"/api/runs/{RUN}/stream"
FIRST_MS_MAX = 5.0
FLOOR = 0.6


async def fill(log: SqliteLog) -> None:
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


def fold(folder: Path) -> None:
    """As a server has done long before somebody comes back."""
    with closing(Views.open(folder)) as views:
        views.refresh()


async def take(url: str) -> bytes:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers, read_bufsize=2**20) as session, session.get(url) as response:
        return await response.read()


def _table(path: Path, ready: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("CREATE TABLE frames (position INTEGER PRIMARY KEY, frame BLOB)")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT, payload BLOB)")
    frames = [it + b"\n\n" for it in ready.split(b"\n\n")]
    connection.executemany("INSERT INTO frames VALUES (?, ?)", enumerate(frames, start=1))
    events = [(*it[4:-2].split(b"\ndata: ", 1),) for it in frames if it.startswith(b"id: ")]
    connection.executemany(
        "INSERT INTO events VALUES (?, ?, ?)",
        [(number, cursor.decode(), payload) for number, (cursor, payload) in enumerate(events, start=1)],
    )
    connection.commit()
    return connection


def _controls(table: sqlite3.Connection, ready: bytes) -> web.Application:
    def page(after: int) -> tuple[int, bytes]:
        query = "SELECT position, frame FROM frames WHERE position > ? ORDER BY position LIMIT ?"
        rows = table.execute(query, (after, PAGE_ROWS)).fetchall()
        return (rows[-1][0] if rows else after), b"".join([frame for _, frame in rows])

    def formatted(after: int) -> tuple[int, bytes]:
        query = "SELECT seq, id, payload FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = table.execute(query, (after, PAGE_ROWS)).fetchall()
        frames = [b"id: %s\ndata: %s\n\n" % (cursor.encode(), payload) for _, cursor, payload in rows]
        return (rows[-1][0] if rows else after), b"".join(frames)

    def paged(page: Callable[[int], tuple[int, bytes]]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            after, content = await asyncio.to_thread(page, 0)
            while content:
                await response.write(content)
                after, content = await asyncio.to_thread(page, after)
            return response

        return handler

    async def from_memory(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(ready), CHUNK_BYTES):
            await response.write(ready[start : start + CHUNK_BYTES])
        return response

    app = web.Application()
    app.router.add_get("/peers", paged(formatted))
    app.router.add_get("/table", paged(page))
    app.router.add_get("/memory", from_memory)
    return app


@asynccontextmanager
async def server(folder: Path) -> AsyncGenerator[tuple[int, SqliteLog]]:
    """A server of its own on the folder, as one that was just started: nothing is ready in it."""
    async with AsyncExitStack() as stack:
        app, log = await open_ours(stack, folder)
        yield await serve(stack, app), log


async def first(folder: Path, size: int) -> dict[str, float]:
    """The first client of a server; its events are known to be true where a log of the folder is open beside it."""
    async with server(folder) as (port, _):
        return await load("take", port, PATH, 1, size)


async def resumed() -> tuple[int, dict[str, list[dict[str, float]]]]:
    """The bytes of all frames, and the figures of each round."""
    found: dict[str, list[dict[str, float]]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runfold-bench-")))
        async with server(folder) as (ours, log):
            await fill(log)
            await asyncio.to_thread(fold, folder)
            ready = await take(f"http://127.0.0.1:{ours}{PATH}")
            table = _table(folder / "frames.db", ready)
            stack.callback(table.close)
            beside = await serve(stack, _controls(table, ready))
            works = {"resume": (ours, PATH), "peers": (beside, "/peers"), "memory": (beside, "/memory")}
            works["table"] = (beside, "/table")
            for _ in range(ROUNDS):
                found.setdefault("first", []).append(await first(folder, len(ready)))
                for name, (port, path) in works.items():
                    found.setdefault(name, []).append(await load("take", port, path, 1, len(ready)))
                # Another process knows nothing of the log.
                command = (sys.executable, "-m", "bench.sse", str(folder), str(len(ready)))
                process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
                found.setdefault("restart", []).append(json.loads((await process.communicate())[0]))
    return len(ready), found


def measure() -> Iterator[Figure]:
    size, found = asyncio.run(resumed())
    rates = {name: [size / it["seconds"] / 1e6 for it in figures] for name, figures in found.items()}
    spent = {kind: [1 / it["cpu_seconds"] for it in figures] for kind, figures in found.items()}
    name, peers = f"resume of {EVENTS:,} events", "frames of ready payloads"
    mine = rates["resume"]
    yield compared(name, "MB/s", mine, rates["peers"], beside=peers, floor=FLOOR)
    yield compared(name, "MB/s", mine, rates["table"], beside="ready frames from a table")
    yield compared(name, "MB/s", mine, rates["memory"], beside="ready bytes from memory")
    yield figure(name, "events/s", [EVENTS / it["seconds"] for it in found["resume"]])
    yield compared(f"{name}, by CPU time", "1/s", spent["resume"], spent["peers"], beside=peers)
    yield figure(f"{name}, first event", "ms", [it["first_ms"] for it in found["resume"]], ceiling=FIRST_MS_MAX)
    yield compared(f"{name}, first client", "MB/s", rates["first"], rates["peers"], beside=peers, floor=FLOOR)
    yield figure(f"{name}, first client", "events/s", [EVENTS / it["seconds"] for it in found["first"]])
    yield compared(f"{name}, first, by CPU time", "1/s", spent["first"], spent["peers"], beside=peers)
    yield compared(f"{name}, after a start", "MB/s", rates["restart"], rates["peers"], beside=peers)
    yield figure(f"{name}, after a start", "events/s", [EVENTS / it["seconds"] for it in found["restart"]])
    began = [it["first_ms"] for it in found["restart"]]
    yield figure(f"{name}, after a start, first event", "ms", began, ceiling=FIRST_MS_MAX)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(first(Path(sys.argv[1]), int(sys.argv[2])))))
        sys.exit()
    sys.exit(show(measure()))

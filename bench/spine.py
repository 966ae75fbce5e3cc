"""Measures the spine beside plain sqlite3 doing the same durable work, in one run; prints ratios.

Run with `make bench`. Every figure is the median of three interleaved rounds on fresh files.
"""

import asyncio
import os
import platform
import sqlite3 as standard_sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from aiohttp import ClientSession, web

from api.app import make_app
from eventstore.ledger import Ledger
from eventstore.reading import open_reader, read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.service import ViewService
from projections.views import Views
from runfold.commands import Observe, OpenReported
from runfold.envelope import NewEvent
from runfold.events import FileWritten, RunQueued, encode_data
from runfold.evolve import evolve
from runfold.state import new_run

ROUNDS = 3
APPENDS_ALONE = 1_000
APPENDS_TOGETHER = 20_000
CALLERS = 64
READ_EVENTS = 50_000
STREAM_EVENTS = 2_000
STREAM_CLIENTS = (1, 100)
TOKEN = "bench-token"
DATA = encode_data(FileWritten(path="src/" + "a" * 170 + ".py", bytes=1234, kind="update"))


def event() -> NewEvent:
    return NewEvent(
        id=str(uuid.uuid4()), type="file_written", data=DATA, at_us=time.time_ns() // 1000, tenant="default",
        actor="worker:bench",
    )  # fmt: skip


def plain_group_commit(folder: Path, count: int, size: int) -> float:
    """Seconds for the same rows in a table without a contract: `size` rows a transaction, WAL, FULL."""
    connection = sqlite3.connect(str(folder / "plain.db"), isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE events(position INTEGER PRIMARY KEY, run_id TEXT, version INTEGER, id BLOB, type TEXT, data BLOB,"
        " UNIQUE(run_id, version), UNIQUE(run_id, id)) STRICT"
    )
    started = time.perf_counter()
    position = 0
    while position < count:
        rows = []
        for _ in range(min(size, count - position)):
            position += 1
            rows.append((position, f"r_{position % CALLERS}", position, uuid.uuid4().bytes, "file_written", DATA))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events VALUES(?,?,?,?,?,?)", rows)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    connection.close()
    return seconds


async def append(folder: Path, count: int, callers: int) -> float:
    log = await SqliteLog.open(folder / "log")

    async def caller(name: str, share: int) -> None:
        last = 0
        for _ in range(share):
            last = (await log.append(name, (event(),), expected=last)).last

    started = time.perf_counter()
    await asyncio.gather(*(caller(f"r_{number}", count // callers) for number in range(callers)))
    seconds = time.perf_counter() - started
    await log.close()
    return seconds


async def fill(folder: Path, count: int) -> None:
    log = await SqliteLog.open(folder)
    last = 0
    for _ in range(0, count, 500):
        last = (await log.append("r_bench", [event() for _ in range(500)], expected=last)).last
    await log.close()


def fold_and_catch_up(folder: Path) -> tuple[float, float, float]:
    """Seconds to read all rows plainly, to decode and fold them, and to bring the views up to date."""
    plain = standard_sqlite3.connect(folder / "log.db")
    started = time.perf_counter()
    position = 0
    while rows := plain.execute(
        "SELECT position, type, data FROM events WHERE position > ? ORDER BY position LIMIT 500", (position,)
    ).fetchall():
        position = rows[-1][0]
    read = time.perf_counter() - started
    plain.close()
    reader = open_reader(folder)
    run, position = new_run("r_bench"), 0
    started = time.perf_counter()
    while (page := read_page(reader, after=position)).events:
        for recorded in page.events:
            run = evolve(run, recorded.event(), at_us=recorded.at_us)
        position = page.scanned_to
    fold = time.perf_counter() - started
    reader.close()
    views = Views.open(folder)
    started = time.perf_counter()
    while views.refresh().position < position:
        pass
    catch_up = time.perf_counter() - started
    views.close()
    return read, fold, catch_up


async def stream(folder: Path, clients: int) -> float:
    """Seconds from the first of STREAM_EVENTS appends until every client has the last of them."""
    log = await SqliteLog.open(folder)
    views = await ViewService.open(folder)
    ledger = Ledger(log)
    app = make_app(
        log=log, ledger=ledger, views=views, data=folder, token=TOKEN, allowed_hosts=frozenset({"127.0.0.1"})
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    run_id = "r_" + "a" * 26
    await ledger.execute(
        run_id, OpenReported(queued=RunQueued(driver="reported")), command_id=str(uuid.uuid4()), actor="user:bench",
        tenant="default",
    )  # fmt: skip
    connected = asyncio.Semaphore(0)

    async def client(session: ClientSession) -> None:
        seen = 0
        async with session.get(f"http://{host}:{port}/api/runs/{run_id}/stream") as response:
            connected.release()
            async for line in response.content:
                seen += line.startswith(b"data:")
                if seen == STREAM_EVENTS + 2:
                    return

    async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        tasks = [asyncio.create_task(client(session)) for _ in range(clients)]
        for _ in tasks:
            await connected.acquire()
        started = time.perf_counter()
        for _ in range(0, STREAM_EVENTS, 10):
            events = tuple(FileWritten(path="a.py", bytes=number) for number in range(10))
            await ledger.execute(
                run_id, Observe(events=events), command_id=str(uuid.uuid4()), actor="user:bench", tenant="default"
            )
        await asyncio.gather(*tasks)
        seconds = time.perf_counter() - started
    await runner.cleanup()
    await views.close()
    await log.close()
    return seconds


def measure(work: Callable[[Path], float]) -> float:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        return work(Path(folder))


def main() -> None:
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
    figures: dict[str, list[float]] = {}

    def note(name: str, rate: float) -> None:
        figures.setdefault(name, []).append(rate)

    for _ in range(ROUNDS):
        note("plain-1", APPENDS_ALONE / measure(lambda f: plain_group_commit(f, APPENDS_ALONE, 1)))
        note("append-1", APPENDS_ALONE / measure(lambda f: asyncio.run(append(f, APPENDS_ALONE, 1))))
        note("plain-64", APPENDS_TOGETHER / measure(lambda f: plain_group_commit(f, APPENDS_TOGETHER, CALLERS)))
        note("append-64", APPENDS_TOGETHER / measure(lambda f: asyncio.run(append(f, APPENDS_TOGETHER, CALLERS))))
        with tempfile.TemporaryDirectory(prefix="runfold-bench-") as name:
            asyncio.run(fill(Path(name), READ_EVENTS))
            for key, seconds in zip(("read", "fold", "catch-up"), fold_and_catch_up(Path(name)), strict=True):
                note(key, READ_EVENTS / seconds)
        for clients in STREAM_CLIENTS:
            seconds = measure(lambda f, clients=clients: asyncio.run(stream(f, clients)))  # type: ignore[misc]
            note(f"sse-{clients}", STREAM_EVENTS * clients / seconds)
    rates = {name: statistics.median(values) for name, values in figures.items()}
    beside = {"append-1": "plain-1", "append-64": "plain-64", "fold": "read", "catch-up": "read"}
    print(f"{'work':12} {'median/s':>12} {'min':>12} {'max':>12}  ratio")
    for name, rate in rates.items():
        ratio = f"{rate / rates[beside[name]]:.2f} of {beside[name]}" if name in beside else ""
        print(f"{name:12} {rate:12,.0f} {min(figures[name]):12,.0f} {max(figures[name]):12,.0f}  {ratio}")


if __name__ == "__main__":
    main()

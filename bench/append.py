"""Measures appends to the log beside a bare insert of the same rows and indexes, in one run; exit 1 below a floor.

The bare insert is what no contract would cost: callers that wait for a group commit in one hop to a thread, with
nothing looked up, hashed, or kept but the rows themselves. Rounds are interleaved; each figure is a median.
"""

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from uuid import UUID

import aiosqlite

from eventstore.reading import COLUMNS
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import SCHEMA
from runfold.envelope import NewEvent
from runfold.events import FileWritten, encode_data

ROUNDS = 5
EVENTS = 20_000
EVENTS_ALONE = 1_000
CALLERS = 64
DATA = encode_data(FileWritten(path="src/" + "a" * 170 + ".py", bytes=1234, kind="update"))
_CHANCE = Random(1)
WIDTH = 17
ROWS_MAX = 256  # In one statement.
_ROW = f"({', '.join('?' * WIDTH)})"
FLOORS = {"64 on 64 runs": 0.7, "64 on 64 runs, ids not by time": 0.0, "64 on one run": 0.4, "1 caller": 0.7}


def by_time() -> UUID:
    """A v7 id."""
    text = (time.time_ns() // 1_000_000 << 80) | 7 << 76 | _CHANCE.getrandbits(12) << 64 | 2 << 62
    return UUID(int=text | _CHANCE.getrandbits(62))


def by_chance() -> UUID:
    return UUID(int=_CHANCE.getrandbits(128), version=4)


class Bare:
    """Group commit without a contract."""

    def __init__(self, connection: aiosqlite.Connection, new_id: Callable[[], UUID]) -> None:
        self._connection = connection
        self._new_id = new_id
        self._waiting: list[tuple[tuple[object, ...], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._position = 0
        self._task = asyncio.create_task(self._write())

    @classmethod
    async def open(cls, folder: Path, new_id: Callable[[], UUID]) -> "Bare":
        connection = await aiosqlite.Connection(
            lambda: sqlite3.connect(folder / "bare.db", isolation_level=None), iter_chunk_size=64
        )
        settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        await (await connection.executescript(settings + SCHEMA.read_text(encoding="utf-8"))).close()
        return cls(connection, new_id)

    async def append(self, run_id: str, version: int) -> int:
        return await self.append_all(run_id, version, 1)

    async def append_all(self, run_id: str, version: int, count: int) -> int:
        now = time.time_ns() // 1000
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for number in range(version, version + count):
            row = (run_id, number, self._new_id().bytes, "file_written", 1, now, now, "default", "worker:bench",
                   None, None, None, "", bytes(32), DATA, bytes(16))  # fmt: skip
            self._waiting.append((row, future))
        self._arrived.set()
        await future
        return version + count - 1

    def _insert(self, rows: list[tuple[object, ...]]) -> None:
        connection = self._connection._conn
        values: list[object] = []
        for row in rows:
            self._position += 1
            values.append(self._position)
            values += row
        connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), ROWS_MAX):
            part = values[start * WIDTH : (start + ROWS_MAX) * WIDTH]
            marks = ", ".join([_ROW] * (len(part) // WIDTH))
            connection.execute(f"INSERT INTO events ({COLUMNS}) VALUES {marks}", part)
        connection.execute("COMMIT")

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            group, self._waiting = self._waiting, []
            await self._connection._execute(self._insert, [row for row, _ in group])
            for _, future in group:
                if not future.done():
                    future.set_result(None)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._connection.close()


async def timed(count: int, callers: int, caller: Callable[[int, int, list[float]], Awaitable[None]]) -> list[float]:
    """Events per second, and the 99th percentile of the waits in milliseconds."""
    waits: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(caller(number, count // callers, waits) for number in range(callers)))
    seconds = time.perf_counter() - started
    return [count / seconds, sorted(waits)[int(len(waits) * 0.99)] * 1000]


async def bare(folder: Path, count: int, callers: int, new_id: Callable[[], UUID], runs: int) -> list[float]:
    log = await Bare.open(folder, new_id)
    versions = [0] * runs

    async def caller(number: int, share: int, waits: list[float]) -> None:
        for _ in range(share):
            started = time.perf_counter()
            versions[number % runs] += 1
            await log.append(f"r_{number % runs}", versions[number % runs])
            waits.append(time.perf_counter() - started)

    figures = await timed(count, callers, caller)
    await log.close()
    return figures


def new_event(new_id: Callable[[], UUID]) -> NewEvent:
    return NewEvent(
        id=str(new_id()), type="file_written", data=DATA, at_us=time.time_ns() // 1000, tenant="default",
        actor="worker:bench",
    )  # fmt: skip


async def ours(folder: Path, count: int, callers: int, new_id: Callable[[], UUID], runs: int) -> list[float]:
    """Callers of one run hand their events to whoever is next, as the ledger's line does."""
    log = await SqliteLog.open(folder)
    last = [0] * runs
    lines = [asyncio.Lock() for _ in range(runs)]
    waiting: list[list[tuple[NewEvent, asyncio.Future[None]]]] = [[] for _ in range(runs)]

    async def caller(number: int, share: int, waits: list[float]) -> None:
        run = number % runs
        for _ in range(share):
            started = time.perf_counter()
            if runs == callers:
                last[run] = (await log.append(f"r_{run}", (new_event(new_id),), expected=last[run])).last
            else:
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                waiting[run].append((new_event(new_id), done))
                async with lines[run]:
                    if not done.done():
                        group, waiting[run] = waiting[run], []
                        events = [event for event, _ in group]
                        last[run] = (await log.append(f"r_{run}", events, expected=last[run])).last
                        for _, future in group:
                            future.set_result(None)
            waits.append(time.perf_counter() - started)

    figures = await timed(count, callers, caller)
    await log.close()
    return figures


def main() -> int:
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}; events of {len(DATA)} B of data")
    cases: dict[str, tuple[int, int, Callable[[], UUID], int]] = {
        "64 on 64 runs": (EVENTS, CALLERS, by_time, CALLERS),
        "64 on 64 runs, ids not by time": (EVENTS, CALLERS, by_chance, CALLERS),
        "64 on one run": (EVENTS, CALLERS, by_time, 1),
        "1 caller": (EVENTS_ALONE, 1, by_time, 1),
    }
    figures: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            for kind, work in (("bare", bare), ("ours", ours)):
                with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
                    figures.setdefault((name, kind), []).append(asyncio.run(work(Path(folder), *case)))
    missed = False
    print(f"{'work':32} {'bare/s':>9} {'ours/s':>9} {'p99 ms':>7}  ratio")
    for name in cases:
        rates = {kind: statistics.median(rate for rate, _ in figures[name, kind]) for kind in ("bare", "ours")}
        p99 = statistics.median(wait for _, wait in figures[name, "ours"])
        # The rounds of a pair stand next to each other, so a busy machine slows both.
        pairs = zip(figures[name, "ours"], figures[name, "bare"], strict=True)
        ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in pairs)
        missed = missed or ratio < FLOORS[name]
        says = f"{ratio:.2f} (floor {FLOORS[name]})" if FLOORS[name] else f"{ratio:.2f}"
        print(f"{name:32} {rates['bare']:9,.0f} {rates['ours']:9,.0f} {p99:7.1f}  {says}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

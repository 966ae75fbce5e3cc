"""Measures appends to the log beside a bare insert of the same rows and indexes.

The bare insert is what no contract would cost: callers that wait for a group commit in one hop to a thread, with
nothing looked up or hashed. It writes every row that an append writes: the events with what the schema keeps of them,
and the heads. Beside that appends are shown next to one that leaves out the heads, which only the contract needs.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from uuid import UUID

import aiosqlite

from bench.scoreboard import Figure, compared, interleaved, percentile, show
from eventstore.appending import MOVE_HEADS
from eventstore.rows import COLUMNS, uuid_bytes
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import SCHEMA
from runfold.envelope import NewEvent
from runfold.events import FileWritten, encode_data
from runfold.ordered_ids import ordered_id

ROUNDS = 5
EVENTS = 60_000  # About a second.
EVENTS_ALONE = 1_000
CALLERS = 64
DATA = encode_data(FileWritten(path="src/" + "a" * 170 + ".py", bytes=1234, kind="update"))
_CHANCE = Random(1)
WIDTH = 17
ROWS_MAX = 256  # In one statement.
_ROW = f"({', '.join('?' * WIDTH)})"
P99_RATIO_MAX = 3.0


def by_chance() -> str:
    return str(UUID(int=_CHANCE.getrandbits(128), version=4))


class Bare:
    """Group commit without a contract."""

    def __init__(self, connection: aiosqlite.Connection, new_id: Callable[[], str], *, heads: bool) -> None:
        self._connection = connection
        self._with_heads = heads
        self._new_id = new_id
        self._waiting: list[tuple[tuple[object, ...], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._position = 0
        self._task = asyncio.create_task(self._write())

    @classmethod
    async def open(cls, folder: Path, new_id: Callable[[], str], *, heads: bool = True) -> "Bare":
        connection = await aiosqlite.Connection(
            lambda: sqlite3.connect(folder / "bare.db", isolation_level=None), iter_chunk_size=64
        )
        settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        await (await connection.executescript(settings + SCHEMA.read_text(encoding="utf-8"))).close()
        return cls(connection, new_id, heads=heads)

    async def append(self, run_id: str, version: int) -> int:
        return await self.append_all(run_id, version, 1)

    async def append_all(self, run_id: str, version: int, count: int, *, command: bytes | None = None) -> int:
        """`command`: what made them; what came by one is kept with a digest of what was sent."""
        sent = None if command is None else bytes(32)
        now = time.time_ns() // 1000
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for number in range(version, version + count):
            row = (run_id, number, uuid_bytes(self._new_id()), "file_written", 1, now, now, "default", "worker:bench",
                   None, command, sent, "", bytes(32), DATA, bytes(16))  # fmt: skip
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
        if self._with_heads:
            connection.execute(MOVE_HEADS, (self._position - len(rows),))
            connection.execute("UPDATE head SET position = ?, recorded_at_us = ?", (self._position, rows[-1][6]))
        connection.execute("COMMIT")

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            group, self._waiting = self._waiting, []
            await self._connection._execute(self._insert, [row for row, _ in group])  # type: ignore
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
    return [count / seconds, percentile(waits, 0.99) * 1000]


async def bare(
    folder: Path, count: int, callers: int, new_id: Callable[[], str], runs: int, *, heads: bool = True
) -> list[float]:
    log = await Bare.open(folder, new_id, heads=heads)
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


def new_event(new_id: Callable[[], str]) -> NewEvent:
    return NewEvent(
        id=new_id(), type="file_written", data=DATA, at_us=time.time_ns() // 1000, tenant="default",
        actor="worker:bench",
    )  # fmt: skip


async def bare_events(folder: Path, count: int, callers: int, new_id: Callable[[], str], runs: int) -> list[float]:
    return await bare(folder, count, callers, new_id, runs, heads=False)


async def ours(folder: Path, count: int, callers: int, new_id: Callable[[], str], runs: int) -> list[float]:
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

    try:
        return await timed(count, callers, caller)
    finally:
        await log.close()


CASES: tuple[tuple[str, int, int, Callable[[], str], int, float | None], ...] = (
    ("64 callers on 64 runs", EVENTS, CALLERS, ordered_id, CALLERS, 0.7),
    ("64 callers on 64 runs, ids not by time", EVENTS, CALLERS, by_chance, CALLERS, None),
    ("64 callers on one run", EVENTS, CALLERS, ordered_id, 1, 0.4),
    ("1 caller", EVENTS_ALONE, 1, ordered_id, 1, 0.7),
)


def measure() -> Iterator[Figure]:
    def once(work: Callable[..., Awaitable[list[float]]], *case: object) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
            return asyncio.run(work(Path(folder), *case))  # type: ignore[arg-type]

    for name, *case, floor in CASES:
        kinds = {"bare": bare, "events": bare_events, "ours": ours}
        found = interleaved(ROUNDS, {kind: partial(once, work, *case) for kind, work in kinds.items()})
        rates, waits = ({kind: [it[n] for it in found[kind]] for kind in found} for n in (0, 1))
        yield compared(name, "events/s", rates["ours"], rates["bare"], beside="a bare insert", floor=floor)
        alone = f"{name}, beside the events alone"
        yield compared(alone, "events/s", rates["ours"], rates["events"], beside="a bare insert of fewer rows")
        ceiling = None if floor is None else P99_RATIO_MAX
        yield compared(f"{name}, p99", "ms", waits["ours"], waits["bare"], beside="a bare insert", ceiling=ceiling)


if __name__ == "__main__":
    sys.exit(show(measure()))

"""Machines of one replicated log, each with a mirror of its own, and writers and followers at work on them."""

import asyncio
import time
import uuid
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Self

from deploy.loopback import Cluster
from eventstore.contract import Appended
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.log import JetStreamLog
from runfold.errors import Unavailable
from tests.contract.events import all_events, numbered

WITHIN_SECONDS = 60


class Machines:
    """A new log, and who is opened on it until the block ends; `shares`: whether they have a store together."""

    def __init__(self, cluster: Cluster, folder: Path, *, shares: bool = False) -> None:
        self.folder, self.store = folder, f"file://{folder / 'store'}" if shares else ""
        self.url = cluster.url(f"t{uuid.uuid4().hex}")
        self.address = parse_address(self.url)
        self._stack, self._count = AsyncExitStack(), 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()

    async def open(self, name: str) -> JetStreamLog:
        log = await JetStreamLog.connect(self.address, self.folder / name, blobs=self.store)
        self._stack.push_async_callback(log.close)
        return log

    async def add(self) -> JetStreamLog:
        """One more, in a folder whose name is its number."""
        self._count += 1
        return await self.open(str(self._count))


class Writing:
    """Writers that send until they are answered, and followers that see all of it."""

    def __init__(self, logs: list[JetStreamLog], *, writers: int, followers: int) -> None:
        self._logs, self._writers, self._followers = logs, writers, followers
        self._acknowledged: dict[str, list[str]] = {f"r_{number}": [] for number in range(writers)}
        self._moved = asyncio.Condition()
        self._is_over = False
        self._seen: list[list[int]] = [[] for _ in range(followers)]

    def start(self, group: asyncio.TaskGroup) -> None:
        self._tasks = [group.create_task(self._write(number)) for number in range(self._writers)]
        self._following = [group.create_task(self._follow(number)) for number in range(self._followers)]

    async def _write(self, number: int) -> None:
        run_id, last = f"r_{number}", 0
        acknowledged = self._acknowledged[run_id]
        while not self._is_over:
            events = numbered(len(acknowledged), 1 + number % 3)
            appended: Appended | None = None
            while appended is None:
                with suppress(Unavailable):
                    appended = await self._logs[number % len(self._logs)].append(run_id, events, expected=last)
            last = appended.last
            acknowledged += [event.id for event in events]
            async with self._moved:
                self._moved.notify_all()

    async def _follow(self, number: int) -> None:
        async with aclosing(self._logs[number % len(self._logs)].tail(after=0)) as pages:
            async for page in pages:
                self._seen[number] += [event.position for event in page.events]
                async with self._moved:
                    self._moved.notify_all()

    async def until_everybody_wrote(self, *, at: int | None = None) -> float:
        """How many seconds it took until each writer was answered once more, all or those at one log."""
        began = time.monotonic()
        writers = [n for n in range(self._writers) if at is None or n % len(self._logs) == at]
        before = {f"r_{n}": len(self._acknowledged[f"r_{n}"]) for n in writers}
        async with asyncio.timeout(WITHIN_SECONDS), self._moved:
            await self._moved.wait_for(
                lambda: all(len(self._acknowledged[run_id]) > count for run_id, count in before.items())
            )
        return time.monotonic() - began

    async def finish(self) -> None:
        """End, then compare what was acknowledged, what is stored, and what every follower saw."""
        self._is_over = True
        await asyncio.wait(self._tasks)
        stored = await all_events(self._logs[0])
        positions = [event.position for event in stored]
        async with asyncio.timeout(WITHIN_SECONDS), self._moved:
            await self._moved.wait_for(lambda: all(len(seen) >= len(positions) for seen in self._seen))
        for task in self._following:
            task.cancel()
        held: dict[str, list[str]] = {}
        for event in stored:
            held.setdefault(event.run_id, []).append(event.id)
        assert held == self._acknowledged
        assert all(seen == positions for seen in self._seen)
        assert await all_events(self._logs[-1]) == stored

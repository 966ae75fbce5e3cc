"""Appends that wait to be stored, and who is waited for so that they share a commit."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TypeAlias

from eventstore.contract import Done
from eventstore.preparing import Request

QUEUE_REQUESTS_MAX = 1024  # Callers beyond these wait for room.
GROUP_REQUESTS_MAX = 500
GROUP_BYTES_MAX = 4 * 1024 * 1024
ENOUGH_EVENTS = 256  # The thread stores these beside the loop, which decides the next: nobody is waited for.
QUIET_SECONDS = 0.001  # Without anybody who comes, of those who are waited for.
GATHER_SECONDS_MAX = 0.01  # About what it takes to read and decide the requests of a hundred clients.
Waiting: TypeAlias = tuple[Request, Done]


class Gathering:
    """For one loop; the first who came leaves first."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._wanted = 1
        """How many are waited for before what they append is committed."""
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self.events = 0
        """Of all who wait."""
        self.is_closed = False
        """Whether nobody is waited for any more."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def _is_enough(self) -> bool:
        return len(self._waiting) >= self._wanted or self.events >= ENOUGH_EVENTS

    def add(self, request: Request, done: Done) -> bool:
        """Whether there was room."""
        waiting = self._waiting
        if len(waiting) >= QUEUE_REQUESTS_MAX:
            return False
        waiting.append((request, done))
        self.events += len(request.ids)
        if len(waiting) in (1, self._wanted) or self.events >= ENOUGH_EVENTS:
            self._arrived.set()
        return True

    def withdraw(self, done: Done) -> None:
        """Who gives up before he was taken."""
        self._keep(deque(each for each in self._waiting if each[1] is not done))

    def take(self, count: int = GROUP_REQUESTS_MAX) -> list[Waiting]:
        """The next ones, at most so many and no more than GROUP_BYTES_MAX, but one; none where nobody waits."""
        group: list[Waiting] = []
        size_bytes = 0
        while self._waiting and len(group) < count:
            size_bytes += self._waiting[0][0].size_bytes
            if group and size_bytes > GROUP_BYTES_MAX:
                break
            group.append(self._waiting.popleft())
        self._keep(self._waiting)
        return group

    def _keep(self, waiting: deque[Waiting]) -> None:
        self._waiting = waiting
        self.events = sum([len(request.ids) for request, _ in waiting])
        self._taken.set()

    def expect(self, answered: int) -> None:
        """Who was just answered mostly comes again."""
        self._wanted = min(answered + len(self._waiting), GROUP_REQUESTS_MAX)

    async def gather(self) -> None:
        """Wait for the first, and for as many as are wanted while they still come; for none once it is closed.

        A commit that begins while most are still read and decided costs them more than it saves one.
        """
        while not self._waiting and not self.is_closed:
            await self.wait_for_somebody()
        until, seen = time.monotonic() + GATHER_SECONDS_MAX, 0
        while seen < len(self._waiting) and not (self._is_enough or self.is_closed) and time.monotonic() < until:
            seen = len(self._waiting)
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await self.wait_for_somebody()

    async def wait_for_somebody(self) -> None:
        """Until somebody comes, or `look_again` is called."""
        self._arrived.clear()
        await self._arrived.wait()

    async def wait_for_room(self) -> None:
        self._taken.clear()
        await self._taken.wait()

    def look_again(self) -> None:
        """Have whoever waits for somebody see how things are."""
        self._arrived.set()

    def close(self) -> None:
        self.is_closed = True
        self._arrived.set()

"""Those who have seen everything: what comes next is read once and written to all of them, in one go.

A member that stands elsewhere, or whose line is full, is handed back to its own connection, which reads the log for
itself until it is here again: so the quick wait for nobody, and the slow lose nothing.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias

from eventstore.framing import Framed

UNTAKEN_BYTES_MAX = 64 * 1024  # A client with more on the way than this is not written to.
AT_ONCE = 100  # Members written to before others get their turn, as whoever reads or appends what comes next.
Pages: TypeAlias = Callable[[int], AsyncGenerator[Framed, None]]
"""The pages after a position, for ever."""


class Member(Protocol):
    """A connection that waits here; `position` is what it has been given, `written_at` when it last was."""

    position: int
    written_at: float
    is_chunked: bool
    transport: asyncio.Transport | None

    def is_due(self, now: float) -> bool:
        """Whether the connection has something to do for itself: the client is gone, or has stayed long enough."""
        ...


class Live:
    """The groups of one server, by what their members want to see."""

    def __init__(self, look_seconds: float) -> None:
        self._look_seconds = look_seconds
        self._groups: dict[Any, Group] = {}
        self.clients = 0
        """How many streams are open, waiting here or reading for themselves."""

    def group(self, what: Any, after: int, pages: Pages) -> "Group":
        """The group of those who want this; the first to come finds it at his own place."""
        group = self._groups.get(what)
        if group is None:
            group = self._groups[what] = Group(after, pages, self._look_seconds)
            group.on_end = lambda: self._leave(what, group)
        return group

    def _leave(self, what: Any, group: "Group") -> None:
        if self._groups.get(what) is group:
            del self._groups[what]

    def wake(self) -> None:
        """Hand all members back, because the server closes."""
        for group in list(self._groups.values()):
            group.wake()


class Group:
    """Members that want the same pages, and the one task that reads and writes for them while there are any."""

    def __init__(self, after: int, pages: Pages, look_seconds: float) -> None:
        self.position = after
        self.on_end: Callable[[], object] = lambda: None
        self._pages = pages
        self._look_seconds = look_seconds
        self._members: dict[Member, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def stay(self, member: Member) -> None:
        """Be given what comes; ends when the connection has something to do for itself."""
        if member.position < self.position:
            return
        handed_back = self._members[member] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="live group")
        try:
            await handed_back
        finally:
            self._members.pop(member, None)
            if not self._members:
                await self._end()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            self.on_end()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def wake(self) -> None:
        for member in tuple(self._members):
            self._hand_back(member)

    def _hand_back(self, member: Member) -> None:
        handed_back = self._members.pop(member, None)
        if handed_back is not None and not handed_back.done():
            handed_back.set_result(None)

    async def _run(self) -> None:
        looked_at = time.monotonic()
        coming: asyncio.Task[Framed] | None = None
        async with aclosing(self._pages(self.position)) as pages:
            try:
                while True:
                    coming = coming or asyncio.create_task(_next_page(pages))
                    left_seconds = looked_at + self._look_seconds - time.monotonic()
                    await asyncio.wait({coming}, timeout=max(0.0, left_seconds))
                    if coming.done():
                        page, coming = coming.result(), None
                        await self._give(page)
                    if time.monotonic() >= looked_at + self._look_seconds:
                        looked_at = time.monotonic()
                        self._look(looked_at)
            except Exception:
                # Each member meets the error in its own reading, and answers for itself; nobody waits for ever.
                self.on_end()
                self.wake()
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)

    async def _give(self, page: Framed) -> None:
        scanned_to = page.scanned_to
        start, self.position = self.position, scanned_to
        if page.is_marked:
            # Whether this is the end is for each connection to find out.
            self.wake()
            return
        content = page.content
        in_chunks = b"%x\r\n%b\r\n" % (len(content), content)
        now = time.monotonic()
        for number, member in enumerate(tuple(self._members), start=1):
            if member not in self._members:
                continue
            if member.position == start:
                if content:
                    # No call more than has to be: this is done for every event and every client.
                    line = member.transport
                    if line is None or line.is_closing() or line.get_write_buffer_size() > UNTAKEN_BYTES_MAX:
                        self._hand_back(member)
                        continue
                    line.write(in_chunks if member.is_chunked else content)
                    member.written_at = now
                member.position = scanned_to
            elif member.position < scanned_to:
                self._hand_back(member)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _look(self, now: float) -> None:
        for member in tuple(self._members):
            if member.is_due(now):
                self._hand_back(member)


async def _next_page(pages: AsyncGenerator[Framed, None]) -> Framed:
    return await anext(pages)

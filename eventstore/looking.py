"""Pages of the log that are looked for once for all who stand at the same place, and ahead while one is written."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

from eventstore.contract import Page
from eventstore.framing import Framed

POLL_SECONDS = 0.05  # How late a commit of another process may be seen.
LOOKS_MAX = 128  # Pages that wait here, of all readers together; 96 KiB each at most, or one event.
AHEAD_PAGES = 16  # Where so many wait for a reader, nobody looks for more.
AHEAD_READS = 2  # On one way to the reading thread and back, on which it has nothing else to do.
READ_PAGES = 8  # So many are read at once, where the next events are like those before.
READ_ROWS_MAX = 1_024  # However small the events of these are; the largest make 64 MiB.

Seen = TypeVar("Seen", Page, Framed)


class Looks(Generic[Seen]):
    """What was found last by place and wish, until the log has moved; for one event loop."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, Hashable], tuple[float, asyncio.Future[Seen]]] = {}

    def forget(self) -> None:
        # Another dict, so that what is being looked for now is not kept as if it were found from now on.
        self._begun = {}

    async def page(
        self, after: int, what: Hashable, look: Callable[[int], Coroutine[Any, Any, Sequence[Seen]]]
    ) -> Seen:
        """The page after a place; all who stand there and want the same share one look until the log has moved."""
        coming = self._begin(after, what, look)
        return coming.result() if coming.done() else await asyncio.shield(coming)

    def ahead(self, page: Seen, what: Hashable, look: Callable[[int], Coroutine[Any, Any, Sequence[Seen]]]) -> bool:
        """Look for what comes after a page, unless there is enough of it: for who is quick, and all who come later.

        The answer is whether a look begins, as soon as its caller waits.
        """
        for _ in range(AHEAD_PAGES):
            if not page.is_full:
                return False
            begun = self._begun.get((page.scanned_to, what))
            if begun is None:
                self._begin(page.scanned_to, what, look)
                return True
            coming = begun[1]
            if not coming.done() or coming.cancelled() or coming.exception() is not None:
                return False
            page = coming.result()
        return False

    def show(self, after: int, what: Hashable, page: Seen) -> None:
        """What comes after a place, without a look."""
        found: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        found.set_result(page)
        self._keep(after, what, found)

    def _begin(
        self, after: int, what: Hashable, look: Callable[[int], Coroutine[Any, Any, Sequence[Seen]]]
    ) -> "asyncio.Future[Seen]":
        now = time.monotonic()
        begun_at, coming = self._begun.get((after, what), (now, None))
        # Where nobody waits for news, nobody asks whether another process has written.
        is_old = coming is not None and coming.done() and now - begun_at >= POLL_SECONDS
        if coming is None or coming.cancelled() or is_old:
            coming = asyncio.create_task(self._first(self._begun, what, look(after)))
            # Whoever asked may be gone before the answer; then nobody else asks what became of it.
            coming.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._keep(after, what, coming)
        return coming

    async def _first(
        self,
        begun: dict[tuple[int, Hashable], tuple[float, "asyncio.Future[Seen]"]],
        what: Hashable,
        looking: Coroutine[Any, Any, Sequence[Seen]],
    ) -> Seen:
        """The first of the pages found; the others wait for who comes to their place."""
        pages = await looking
        if begun is self._begun:
            for before, page in pairwise(pages):
                self.show(before.scanned_to, what, page)
        return pages[0]

    def _keep(self, after: int, what: Hashable, coming: "asyncio.Future[Seen]") -> None:
        self._begun[after, what] = (time.monotonic(), coming)
        while len(self._begun) > LOOKS_MAX:
            self._begun.pop(next(iter(self._begun)))

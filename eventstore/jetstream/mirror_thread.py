"""The mirror's one connection: its thread uses it, or the event loop itself for what is soon stored.

The way to the thread and back takes longer than storing an event, for nothing is synced: the stream is the log.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import aiosqlite

from eventstore.jetstream.mirror import Arrived, Mirror
from eventstore.rows import Row
from eventstore.sqlite import hop
from runfold.events import REWRITES

AT_ONCE_EVENTS_MAX = 8
AT_ONCE_BYTES_MAX = 16 * 1024
IN_A_ROW_MAX = 500  # Then the thread has its turn, which brings the journal into the file when that is due,
THREADS_TURNS = 2  # and begins the next one: both sync.
SLOW_SECONDS = 0.05  # A disk that keeps the event loop so long
SLOW_AGAIN_SECONDS = 10.0  # is the thread's to wait for, and so long nobody tries again.

_T = TypeVar("_T")


class MirrorThread:
    """For one event loop; whoever else uses the connection goes through it."""

    def __init__(self, connection: aiosqlite.Connection, mirror: Mirror) -> None:
        self._connection, self._mirror = connection, mirror
        self._begun = self._awaited = 0
        self._ended = 0
        """Is counted in the thread: it also ends what nobody waits for any more."""
        self._in_a_row = 0
        self._not_before = 0.0

    async def do(self, function: Callable[[], _T]) -> _T:
        """Run a function in the thread."""

        def run() -> _T:
            try:
                self._mirror.be_patient()
                return function()
            finally:
                self._ended += 1

        self._begun += 1
        self._awaited += 1
        try:
            return await hop(self._connection, run)
        finally:
            self._awaited -= 1

    async def take(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> tuple[int, list[Row]]:
        """As `Mirror.take`, here or there."""
        taken = self.take_at_once(own, arrived)
        return await self.do(lambda: self._mirror.take(own, arrived)) if taken is None else taken

    def take_at_once(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> tuple[int, list[Row]] | None:
        """As `Mirror.take`, where it is soon done and nobody has to be waited for; else None."""
        if not self._is_soon_done(own, arrived):
            return None
        began = time.monotonic()
        self._in_a_row = (self._in_a_row + 1) % IN_A_ROW_MAX
        if began < self._not_before or self._in_a_row < THREADS_TURNS:
            return None
        taken = self._mirror.take_at_once(own, arrived)
        ended = time.monotonic()
        if ended - began > SLOW_SECONDS:
            self._not_before = ended + SLOW_AGAIN_SECONDS
        return taken

    def _is_soon_done(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> bool:
        if self._awaited or self._begun != self._ended or len(own) + len(arrived) > AT_ONCE_EVENTS_MAX:
            return False
        messages = [each.message for each in arrived]
        if any(message.type in REWRITES or message.digest is not None for message in messages):
            return False
        size = sum([len(row[15]) for row in own]) + sum([len(message.data or b"") for message in messages])
        return size <= AT_ONCE_BYTES_MAX

"""The views for a server: every query catches up first and runs in the one thread that owns the connection.

Where there is much to catch up with, that is done behind the answers, which say meanwhile that they are `stale`.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from eventstore.damage import is_passing
from eventstore.sqlite3_module import sqlite3
from projections.engine.opening import DISK_HINT
from projections.engine.projector import Freshness, NotWritten
from projections.engine.unchanged import Mark, Unchanged
from projections.engine.views import BEHIND_MAX, Views
from projections.lately import Lately
from runfold.errors import RunfoldError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")
_Wanted = TypeVar("_Wanted", bound=Hashable)

SLICE_POSITIONS = 500  # Folded at a time between two questions, about a tenth of a second.
TURN_SECONDS = 0.02  # Between two slices, for other processes that wait to fold or to switch to another generation.
STUCK_SECONDS = 2.0
KEPT_BYTES_MAX = 16 * 1024 * 1024  # Of answers kept ready; some 150 pages of 50 runs.
KEPT_MAX = 1_000
_encode = msgspec.json.Encoder().encode


class ViewService:
    def __init__(
        self, views: Views, executor: ThreadPoolExecutor, data: Path, now_seconds: Callable[[], float]
    ) -> None:
        self._views, self._executor = views, executor
        self._lately = Lately(now_seconds)
        self._refreshed: tuple[Mark, Freshness] | None = None
        self._unchanged = Unchanged(data)
        self._kept: dict[Hashable, tuple[bytes, Freshness]] = {}
        self._kept_at: Mark | None = None
        self._kept_bytes = 0
        self._catching_up: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, data: Path, *, now_seconds: Callable[[], float] = time.monotonic) -> "ViewService":
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="views")

        def opened() -> Views:
            views = Views.open(data)
            # Nobody's first question waits for it; what is wrong with the log is said with the answer.
            with suppress(RunfoldError):
                views.open_log()
            return views

        try:
            views = await asyncio.get_running_loop().run_in_executor(executor, opened)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(views, executor, data, now_seconds)

    async def query(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, Freshness]:
        """The answer of a query function, and how fresh it is; from views that are far behind, what they have.

        Raises Unavailable where they cannot be read now, and what the function raises.
        """
        mark = self._unchanged.mark()

        def question(connection: sqlite3.Connection) -> T:
            return fn(connection, *args, **kwargs)

        def ask() -> tuple[T, Freshness]:
            freshness = self._look(mark)
            try:
                return self._views.ask(question), freshness
            except sqlite3.DatabaseError as error:
                # Who catches up does not meet every page.
                if not self._views.leave_damaged(error):
                    raise
            self._refreshed = None
            freshness = self._look(None)
            return self._views.ask(question), freshness

        try:
            answer, freshness = await asyncio.get_running_loop().run_in_executor(self._executor, ask)
        except (OSError, sqlite3.OperationalError) as error:
            if not (isinstance(error, OSError | NotWritten) or is_passing(error)):
                raise
            raise Unavailable(f"the views cannot be read now: {error}", hint=DISK_HINT) from error
        if freshness.behind > BEHIND_MAX and (self._catching_up is None or self._catching_up.done()):
            self._catching_up = asyncio.create_task(self._catch_up(freshness.behind), name="catch up with the log")
        return answer, freshness

    async def query_whole(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, Freshness]:
        """As `query`, but waits however much is to be folded: for who would do harm by what is old."""
        answer, freshness = await self.query(fn, *args, **kwargs)
        if freshness.behind > BEHIND_MAX and self._catching_up is not None:
            # Who is cancelled ends nothing: others wait for it too.
            await asyncio.wait([self._catching_up])
            answer, freshness = await self.query(fn, *args, **kwargs)
        return answer, freshness

    async def query_lately(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The answer as it was lately: for what may be some seconds old, and must not wait for the fold."""

        async def ask() -> T:
            return (await self.query(fn, *args, **kwargs))[0]

        answer: T = await self._lately.answer((fn, args, tuple(kwargs.items())), ask)
        return answer

    def _look(self, mark: Mark | None) -> Freshness:
        """Catch up where somebody may have written since; `mark` was taken before. For the thread of the views."""
        if self._refreshed is not None and self._refreshed[0] == mark:
            return self._refreshed[1]
        freshness = self._views.refresh(behind_max=BEHIND_MAX)
        self._refreshed = None if mark is None or freshness.stale else (mark, freshness)
        return freshness

    async def answer(
        self, fn: Callable[[sqlite3.Connection, _Wanted], Any], wanted: _Wanted
    ) -> tuple[bytes, Freshness]:
        """The answer of a query function as JSON, kept ready for as long as nothing at all was written."""
        mark = self._unchanged.mark()
        kept = self._kept.get((fn, wanted))
        if kept is not None and mark is not None and mark == self._kept_at:
            return kept
        content, freshness = await self.query(lambda connection: _encode(fn(connection, wanted)))
        # Marked before it was asked: what was written meanwhile gives another mark, whether the answer has it or not.
        if mark is not None and not freshness.stale:
            self._keep(mark, (fn, wanted), (content, freshness))
        return content, freshness

    def _keep(self, mark: Mark, key: Hashable, answer: tuple[bytes, Freshness]) -> None:
        if mark != self._kept_at:
            self._kept.clear()
            self._kept_at, self._kept_bytes = mark, 0
        before = self._kept.pop(key, None)
        self._kept_bytes += len(answer[0]) - (0 if before is None else len(before[0]))
        self._kept[key] = answer
        while self._kept_bytes > KEPT_BYTES_MAX or len(self._kept) > KEPT_MAX:
            oldest = next(iter(self._kept))
            self._kept_bytes -= len(self._kept.pop(oldest)[0])

    async def _catch_up(self, behind: int) -> None:
        """Fold what is far behind, a slice at a time, until the next question can do the rest."""
        loop = asyncio.get_running_loop()
        least, since = behind, loop.time()
        # Who comes no nearer has to wait for a disk, another process, or a person: the next question tries again.
        while behind > BEHIND_MAX and loop.time() < since + STUCK_SECONDS:
            try:
                freshness = await loop.run_in_executor(self._executor, self._views.fold_some, SLICE_POSITIONS)
            except (RunfoldError, OSError, sqlite3.Error):
                return
            behind = freshness.behind
            if behind < least:
                least, since = behind, loop.time()
            await asyncio.sleep(TURN_SECONDS)

    async def close(self) -> None:
        await self._lately.close()
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait([self._catching_up])
        self._unchanged.close()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._views.close)
        self._executor.shutdown(wait=False)

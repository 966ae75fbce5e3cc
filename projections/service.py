"""The views for a server: every query catches up first and runs in the one thread that owns the connection."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from eventstore.sqlite3_module import sqlite3
from projections.views import Freshness, Views

LATELY_SECONDS = 1.0  # A server looks more often than that on its own account.
P = ParamSpec("P")
T = TypeVar("T")


class ViewService:
    def __init__(self, views: Views, executor: ThreadPoolExecutor, now_seconds: Callable[[], float]) -> None:
        self._views, self._now_seconds = views, now_seconds
        self._executor = executor
        self._refreshed: tuple[Freshness | None, float] = None, 0.0

    @classmethod
    async def open(cls, data: Path, *, now_seconds: Callable[[], float] = time.monotonic) -> "ViewService":
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="views")
        try:
            views = await asyncio.get_running_loop().run_in_executor(executor, Views.open, data)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(views, executor, now_seconds)

    async def query(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, Freshness]:
        """The answer of a query function, and how fresh it is."""
        return await self._ask(0.0, fn, *args, **kwargs)

    async def query_lately(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The answer as of the last `LATELY_SECONDS`: for what may be that old, and must not wait for the fold."""
        return (await self._ask(LATELY_SECONDS, fn, *args, **kwargs))[0]

    async def _ask(
        self,
        age_seconds: float,
        fn: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[T, Freshness]:
        def ask() -> tuple[T, Freshness]:
            freshness, asked_at = self._refreshed
            if freshness is None or self._now_seconds() - asked_at >= age_seconds:
                asked_at = self._now_seconds()
                freshness = self._views.refresh()
                self._refreshed = freshness, asked_at
            connection = self._views.connection
            # One snapshot for all statements of the query, whatever other processes fold meanwhile.
            connection.execute("BEGIN")
            try:
                return fn(connection, *args, **kwargs), freshness
            finally:
                connection.execute("ROLLBACK")

        return await asyncio.get_running_loop().run_in_executor(self._executor, ask)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._views.close)
        self._executor.shutdown(wait=False)

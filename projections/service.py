"""The views for a server: every query catches up first and runs in the one thread that owns the connection."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from eventstore.sqlite3_module import sqlite3
from projections.views import Freshness, Views

P = ParamSpec("P")
T = TypeVar("T")


class ViewService:
    def __init__(self, views: Views, executor: ThreadPoolExecutor) -> None:
        self._views = views
        self._executor = executor

    @classmethod
    async def open(cls, data: Path) -> "ViewService":
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="views")
        try:
            views = await asyncio.get_running_loop().run_in_executor(executor, Views.open, data)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(views, executor)

    async def query(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, Freshness]:
        """The answer of a query function, and how fresh it is."""

        def ask() -> tuple[T, Freshness]:
            freshness = self._views.refresh()
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

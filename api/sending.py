"""A file as an answer, and whoever ends the answer early leaves no open file behind."""

import asyncio
import io
import os
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter


class SentFile(web.FileResponse):
    """aiohttp's answer from a file (ranges, conditions, compressed siblings) that is closed whenever it ends.

    A thread opens the file. If the answer is cancelled meanwhile, since its client went or the server stops, aiohttp
    (3.14) forgets what the thread brings, and leaves the closing to the garbage collector.
    """

    _opened: io.BufferedReader | None = None
    _cancelled = False

    def _make_response(
        self, request: web.BaseRequest, accept_encoding: str
    ) -> tuple[Any, io.BufferedReader | None, os.stat_result, str | None]:
        made = super()._make_response(request, accept_encoding)
        # This side writes and then looks, the other too, so that one of them sees both; to close twice is harmless.
        self._opened = made[1]
        if self._cancelled:
            self._close()
        return made

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        try:
            return await super().prepare(request)
        except asyncio.CancelledError:
            self._cancelled = True
            self._close()
            raise

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()

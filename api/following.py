"""One client's connection: it asks for the next page only when the last one is taken, so a slow one costs little."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from api.frames import keepalive
from eventstore.framing import Framed
from runfold.errors import RunfoldError

RETRY_MS = 1_000
MEDIA_TYPE = "text/event-stream; charset=utf-8"
_log = logging.getLogger("runfold.api")


class Streaming(msgspec.Struct, frozen=True, kw_only=True):
    """`look`: how soon a client that left without a word is noticed; `stalled`: how long one may take nothing."""

    keepalive_seconds: float = 15.0
    stalled_seconds: float = 30.0
    max_stream_seconds: float = 3_600.0
    look_seconds: float = 1.0


class _Gone(Exception):
    """The client took nothing for too long, or went away."""


class Follower:
    def __init__(self, request: web.Request, streaming: Streaming, closing: asyncio.Event) -> None:
        self._request = request
        self._streaming = streaming
        self._closing = closing
        self._written_at = time.monotonic()
        self._response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "X-Accel-Buffering": "no"})

    async def follow(
        self,
        pages: AsyncGenerator[Framed, None],
        position: int,
        deliver: Callable[[Framed], Awaitable[bool]],
        *,
        opening: bytes = b"",
    ) -> web.StreamResponse:
        """Deliver pages until `deliver` says no, the server closes, the client goes, or the stream is old."""
        try:
            await self._response.prepare(self._request)
            await self.write(b"retry: %d\n\n" % RETRY_MS + opening)
            async with contextlib.aclosing(self._ticks(pages)) as ticks:
                async for page in ticks:
                    if page is None:
                        await self.write(keepalive(position))
                        continue
                    if not await deliver(page):
                        break
                    position = max(position, page.scanned_to)
        except (ConnectionError, _Gone):
            self._abort()
        except RunfoldError as error:
            # The head of the answer is out; whoever comes back is told by its status.
            _log.warning("a stream ended early: %s", error)
            self._abort()
        return self._response

    async def say(self, content: bytes) -> web.StreamResponse:
        """All that there is to say, and the end."""
        try:
            await self._response.prepare(self._request)
            await self.write(b"retry: %d\n\n" % RETRY_MS + content)
        except (ConnectionError, _Gone):
            self._abort()
        return self._response

    async def write(self, content: bytes) -> None:
        """Hand over; a slow client is waited for, one that takes nothing at all is gone."""
        left = self._untaken_bytes() + len(content)
        is_handed_over = False
        while True:
            try:
                async with asyncio.timeout(self._streaming.stalled_seconds):
                    await (self._request.writer.drain() if is_handed_over else self._response.write(content))
                self._written_at = time.monotonic()
                return
            except TimeoutError as error:
                before, left = left, self._untaken_bytes()
                if left >= before:
                    raise _Gone from error
            # The content is with the transport already; what is left is to wait until it is taken.
            is_handed_over = True

    def _untaken_bytes(self) -> int:
        transport = self._request.transport
        if transport is None:
            raise _Gone
        return transport.get_write_buffer_size()

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _ticks(self, pages: AsyncGenerator[Framed, None]) -> AsyncGenerator[Framed | None, None]:
        """Pages as they come, None when a keepalive is due; ends when the server closes or the client is gone."""
        spread = random.uniform(0.9, 1.0)  # noqa: S311 - so that not all come back at once.
        ends_at = time.monotonic() + self._streaming.max_stream_seconds * spread
        coming: asyncio.Task[Framed] | None = None
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not self._closing.is_set() and time.monotonic() < ends_at:
                if coming is None:
                    coming = asyncio.create_task(_next_page(pages))
                await asyncio.wait(
                    {coming, closing}, timeout=self._streaming.look_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                transport = self._request.transport
                if transport is None or transport.is_closing():
                    raise _Gone
                if coming.done():
                    page = coming.result()
                    # One page is read ahead while the client takes this one.
                    coming = asyncio.create_task(_next_page(pages))
                    yield page
                # Pages of which the client wants nothing keep no connection alive.
                if time.monotonic() - self._written_at >= self._streaming.keepalive_seconds:
                    yield None
        finally:
            tasks: list[asyncio.Task[Any]] = [closing] if coming is None else [closing, coming]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pages.aclose()


async def _next_page(pages: AsyncGenerator[Framed, None]) -> Framed:
    return await anext(pages)

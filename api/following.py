"""One client's connection: it reads the log for itself until it has seen everything, then waits among the others.

The next page is read when the last one is with the network, so a slow client costs one page, and a quick one no wait.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from api.frames import keepalive
from api.guard import SCOPE, is_granted
from api.live import Live, Pages
from eventstore.framing import Framed
from projections.tokens import now_us
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


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants: one page after a position, or pages as they come; equal `what` is the same wish."""

    what: Any
    first: Callable[[int], Awaitable[Framed]]
    """As `page`, for who has had nothing yet."""
    page: Callable[[int], Awaitable[Framed]]
    pages: Pages


class _Gone(Exception):
    """The client took nothing for too long, or went away."""


class Follower:
    def __init__(self, request: web.Request, streaming: Streaming, closing: asyncio.Event) -> None:
        self._request = request
        self._streaming = streaming
        self._closing = closing
        self.written_at = time.monotonic()
        spread = random.uniform(0.9, 1.0)  # noqa: S311 - so that not all come back at once.
        ends_at_us = request[SCOPE].expires_at_us
        left_seconds = math.inf if ends_at_us is None else (ends_at_us - now_us()) / 1_000_000
        self._ends_at = self.written_at + min(streaming.max_stream_seconds * spread, left_seconds)
        self._response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "X-Accel-Buffering": "no"})
        self.transport = request.transport
        self.is_chunked = False
        self.position = 0

    async def follow(
        self,
        source: Source,
        position: int,
        live: Live,
        *,
        opening: bytes = b"",
        ending: Callable[[Framed], Awaitable[bytes]] | None = None,
    ) -> web.StreamResponse:
        """Deliver pages until `ending` has a last word, the server closes, the client goes or may not look any more,
        or the stream is old. Raises RunfoldError where there is no first page: then the answer can still say why.
        """
        self.position = position
        found = [await source.first(position)]
        live.clients += 1
        try:
            await self._open(opening)
            while self._may_go_on():
                page = found.pop() if found else await source.page(self.position)
                last_word = await ending(page) if ending is not None else b""
                is_further, self.position = page.scanned_to > self.position, max(self.position, page.scanned_to)
                if page.content or last_word:
                    self._put(page.content + last_word)
                # Not kept while the client takes it.
                del page
                await self._drain()
                if last_word:
                    break
                # Whoever is to end it meanwhile found nobody waiting to be woken.
                if not is_further and self._may_go_on():
                    await live.group(source.what, self.position, source.pages).stay(self)
                if self._has_left():
                    raise _Gone
                # Pages of which the client wants nothing keep no connection alive.
                if self._is_silent(time.monotonic()):
                    self._put(keepalive(self.position))
                    await self._drain()
        except (ConnectionError, _Gone):
            self._abort()
        except RunfoldError as error:
            # The head of the answer is out; whoever comes back is told by its status.
            _log.warning("a stream ended early: %s", error)
            self._abort()
        finally:
            live.clients -= 1
        return self._response

    async def say(self, content: bytes) -> web.StreamResponse:
        """All that there is to say, and the end."""
        try:
            await self._open(content)
        except (ConnectionError, _Gone):
            self._abort()
        return self._response

    def is_due(self, now: float) -> bool:
        return self._has_left() or now >= self._ends_at or self._is_silent(now)

    def _has_left(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def _may_go_on(self) -> bool:
        return not self._closing.is_set() and time.monotonic() < self._ends_at and is_granted(self._request)

    def _is_silent(self, now: float) -> bool:
        return now - self.written_at >= self._streaming.keepalive_seconds

    async def _open(self, content: bytes) -> None:
        await self._response.prepare(self._request)
        self.is_chunked = self._response.headers.get("Transfer-Encoding") == "chunked"
        # The head of the answer goes out with the first bytes; from then on the transport is ours.
        await self._response.write(b"retry: %d\n\n" % RETRY_MS + content)
        await self._drain()

    def _put(self, content: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise _Gone
        transport.write(b"%x\r\n%b\r\n" % (len(content), content) if self.is_chunked else content)
        self.written_at = time.monotonic()

    async def _drain(self) -> None:
        """A slow client is waited for, one that takes nothing at all is gone."""
        while self._request.protocol.writing_paused:
            before = self._untaken_bytes()
            try:
                async with asyncio.timeout(self._streaming.stalled_seconds):
                    await self._request.writer.drain()
                self.written_at = time.monotonic()
            except TimeoutError as error:
                if self._untaken_bytes() >= before:
                    raise _Gone from error

    def _untaken_bytes(self) -> int:
        transport = self._request.transport
        if transport is None:
            raise _Gone
        return transport.get_write_buffer_size()

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

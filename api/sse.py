"""Events live: every client reads the log from its own position, so coming back is the same as having stayed."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec
from aiohttp import web

from api.cursors import Cursor, check_cursor, parse_cursor
from api.guard import SCOPE
from api.reading import is_wanted
from api.routes import QUERY
from api.service import SERVICE, Service, known_run
from eventstore.contract import Page
from projections.runs import get_run
from runfold.envelope import SYSTEM_STREAM, Recorded, envelope_json
from runfold.events import EventClass, RunQueued
from runfold.items import item_json

RETRY_MS = 1_000
KEEPALIVE_SECONDS = 15.0
LOOK_SECONDS = 1.0  # How soon a client that went away without a word is noticed while nothing happens.
WRITE_TIMEOUT_SECONDS = 30.0
STREAM_SECONDS_MAX = 3_600.0
CHUNK_BYTES = 128 * 1024  # Together with aiohttp's own buffer below the 256 KiB that one client may cost.
WORKFLOWS_KNOWN_MAX = 10_000
_RESTING_TYPES = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})
_DONE = b"event: done\ndata: [DONE]\n\n"


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: str | None = None
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")
    named: Literal["0", "1"] = "0"
    format: Literal["events", "items"] = "events"


class AllStreamQuery(StreamQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workflow: tuple[str, ...] = ()


async def get_run_stream(request: web.Request) -> web.StreamResponse:
    """One run, to its end. Whoever comes back after the end gets 204, which tells EventSource to stay away."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    query: StreamQuery = request[QUERY]
    run = await known_run(service, run_id, request[SCOPE].tenant)
    cursor = await _cursor(request, service, query, run_id)
    last = await service.log.last(run_id)
    if run.is_resting and last is not None and cursor.position >= last.position and run.version == last.version:
        return web.Response(status=204)
    follower = _Follower(request, service, query)
    seen_rest = run.is_resting
    version = 0

    async def deliver(page: Page) -> bool:
        nonlocal seen_rest, version
        await follower.send([event for event in page.events if is_wanted(event, query.type, query.classes)])
        if page.events:
            version = page.events[-1].version
            seen_rest = seen_rest or any(event.type in _RESTING_TYPES for event in page.events)
        if not (seen_rest and page.events):
            return True
        now = await known_run(service, run_id, request[SCOPE].tenant)
        if not now.is_resting or now.version > version:
            return True
        await follower.write(_DONE)
        return False

    return await follower.follow(service.log.tail(after=cursor.position, stream=run_id), cursor.position, deliver)


async def get_all_stream(request: web.Request) -> web.StreamResponse:
    """All runs of the tenant, for ever."""
    service = request.app[SERVICE]
    query: AllStreamQuery = request[QUERY]
    cursor = await _cursor(request, service, query, None)
    follower = _Follower(request, service, query)
    tenant = request[SCOPE].tenant
    workflows = _Workflows(service, tenant)

    async def deliver(page: Page) -> bool:
        wanted: list[Recorded] = []
        for event in page.events:
            if event.tenant != tenant or event.run_id == SYSTEM_STREAM:
                continue
            if query.workflow and await workflows.of(event) not in query.workflow:
                continue
            if is_wanted(event, query.type, query.classes):
                wanted.append(event)
        await follower.send(wanted)
        return True

    return await follower.follow(service.log.tail(after=cursor.position), cursor.position, deliver)


async def _cursor(request: web.Request, service: Service, query: StreamQuery, run_id: str | None) -> Cursor:
    """Last-Event-ID wins: a browser that reconnects repeats the address it began with."""
    text = request.headers.get("Last-Event-ID") or query.after
    if text is None:
        return Cursor(0)
    cursor = parse_cursor(text)
    await check_cursor(service.log, cursor, run_id=run_id)
    return cursor


class _Workflows:
    """Which workflow a run belongs to, remembered for as many runs as one stream may cost."""

    def __init__(self, service: Service, tenant: str) -> None:
        self._service = service
        self._tenant = tenant
        self._known: dict[str, str | None] = {}

    async def of(self, event: Recorded) -> str | None:
        if event.run_id not in self._known:
            while len(self._known) >= WORKFLOWS_KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[event.run_id] = await self._find(event)
        return self._known[event.run_id]

    async def _find(self, event: Recorded) -> str | None:
        if event.type == "run_queued":
            queued = event.event()
            if isinstance(queued, RunQueued):
                return queued.workflow
        found, _ = await self._service.views.query(get_run, event.run_id, tenant=self._tenant)
        return None if found is None else found.workflow


class _Gone(Exception):
    """The client took nothing for too long, or went away."""


class _Follower:
    """One client's connection: it asks for the next page only when the last one is written."""

    def __init__(self, request: web.Request, service: Service, query: StreamQuery) -> None:
        self._request = request
        self._closing = service.closing
        self._is_named = query.named == "1"
        self._as_json = item_json if query.format == "items" else envelope_json
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

    async def follow(
        self, pages: AsyncGenerator[Page, None], position: int, deliver: Callable[[Page], Awaitable[bool]]
    ) -> web.StreamResponse:
        """Deliver pages until `deliver` says no, the server closes, the client goes, or the stream is old."""
        try:
            await self._response.prepare(self._request)
            await self.write(b"retry: %d\n\n" % RETRY_MS)
            async with contextlib.aclosing(self._ticks(pages)) as ticks:
                async for page in ticks:
                    if page is None:
                        await self.write(b":keepalive %d\n\n" % position)
                        continue
                    if not await deliver(page):
                        break
                    position = max(position, page.scanned_to)
        except (ConnectionError, _Gone):
            if self._request.transport is not None:
                self._request.transport.abort()
        return self._response

    async def send(self, events: Sequence[Recorded]) -> None:
        chunk: list[bytes] = []
        size = 0
        for event in events:
            frame = self._frame(event)
            if chunk and size + len(frame) > CHUNK_BYTES:
                await self.write(b"".join(chunk))
                chunk, size = [], 0
            chunk.append(frame)
            size += len(frame)
        if chunk:
            await self.write(b"".join(chunk))

    async def write(self, content: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await self._response.write(content)
        except TimeoutError as error:
            raise _Gone from error

    def _frame(self, event: Recorded) -> bytes:
        name = f"event: {event.type}\n" if self._is_named else ""
        return f"id: {event.cursor}\n{name}data: ".encode() + self._as_json(event) + b"\n\n"

    async def _ticks(self, pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page | None, None]:
        """Pages as they come, None when a keepalive is due; ends when the server closes or the client is gone."""
        ends = time.monotonic() + STREAM_SECONDS_MAX * random.uniform(0.9, 1.0)  # noqa: S311 - only spreads load.
        quiet_since = time.monotonic()
        coming: asyncio.Task[Page] | None = None
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not self._closing.is_set() and time.monotonic() < ends:
                if coming is None:
                    coming = asyncio.create_task(_next_page(pages))
                await asyncio.wait({coming, closing}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                transport = self._request.transport
                if transport is None or transport.is_closing():
                    raise _Gone
                if coming.done():
                    page, coming = coming.result(), None
                    quiet_since = time.monotonic()
                    yield page
                elif time.monotonic() - quiet_since >= KEEPALIVE_SECONDS:
                    quiet_since = time.monotonic()
                    yield None
        finally:
            tasks: list[asyncio.Task[Any]] = [closing] if coming is None else [closing, coming]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pages.aclose()


async def _next_page(pages: AsyncGenerator[Page, None]) -> Page:
    return await anext(pages)

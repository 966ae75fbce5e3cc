"""Events live: every client reads the log from its own position, so coming back is the same as having stayed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import msgspec
from aiohttp import web

from api.approvals import pending_frames
from api.cursors import Cursor, check_cursor, parse_cursor
from api.following import MEDIA_TYPE, Follower, Source
from api.frames import DONE, Form, reset_frame
from api.guard import SCOPE
from api.reading import shown_to
from api.routes import QUERY, Route
from api.service import SERVICE, Service, shown_run
from eventstore.contract import EventLog, Page
from eventstore.framing import Framed, Framing
from projections.past import At, state_at
from projections.run_list import LIMIT_MAX, RunFilter, list_runs
from runfold.envelope import Recorded, envelope_json
from runfold.errors import Gone
from runfold.events import EventClass
from runfold.items import item_json
from runfold.snapshot import snapshot
from runfold.state import Run

WORKFLOWS_KNOWN_MAX = 10_000
_RESTING_TYPES = ("run_completed", "run_failed", "run_cancelled", "run_stopped")


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: str | None = None
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")
    named: Literal["0", "1"] = "0"
    on_gap: Literal["410", "reset"] = "410"
    format: Literal["events", "items"] = "events"


class AllStreamQuery(StreamQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workflow: tuple[str, ...] = ()


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """The reader's place is gone: this is the state at `position`, and the stream goes on from there."""

    code: str
    earliest: int
    position: int
    snapshot: Any


async def get_run_stream(request: web.Request) -> web.StreamResponse:
    """One run, to its end. Whoever comes back after the end gets 204, which tells EventSource to stay away."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    query: StreamQuery = request[QUERY]
    tenant = request[SCOPE].tenant
    run = await shown_run(service, run_id, tenant)
    opening = b""
    try:
        cursor = await _cursor(request, service, query, run_id)
    except Gone as error:
        if query.on_gap != "reset":
            raise
        run, position = await state_at(service.log, run_id, At())
        cursor = Cursor(position)
        opening = _reset(error, position, shown_to(request, snapshot(run, position=position))) + (
            DONE if run.is_resting else b""
        )
    is_over = cursor.position > 0 and run.is_resting and await _is_at_end(service.log, run, cursor)
    if is_over and not opening:
        return web.Response(status=204)
    if request.method == "HEAD":
        return web.Response(headers={"Content-Type": MEDIA_TYPE})
    follower = Follower(request, service.streaming, service.closing)
    seen_rest = run.is_resting

    async def ending(page: Framed) -> bytes:
        nonlocal seen_rest
        seen_rest = seen_rest or page.is_marked
        # What the run had when it was asked for has to be given first, so it is not asked for again before.
        if not seen_rest or page.version < max(run.version, 1):
            return b""
        now = await shown_run(service, run_id, tenant)
        return b"" if not now.is_resting or now.version > page.version else DONE

    if is_over:
        return await follower.say(opening)
    framing = Framing(types=query.type, classes=query.classes, named=query.named == "1", marks=_RESTING_TYPES)
    source = _source(service, query, framing, stream=run_id)
    opening += await _questions(service, framing, cursor, tenant=tenant, run_id=run_id)
    return await follower.follow(source, cursor.position, service.live, opening=opening, ending=ending)


async def _is_at_end(log: EventLog, run: Run, cursor: Cursor) -> bool:
    last = await log.last(run.run_id)
    return last is not None and cursor.position >= last.position and run.version == last.version


async def get_all_stream(request: web.Request) -> web.StreamResponse:
    """All runs of the tenant, for ever."""
    service = request.app[SERVICE]
    query: AllStreamQuery = request[QUERY]
    tenant = request[SCOPE].tenant
    opening = b""
    try:
        cursor = await _cursor(request, service, query, None)
    except Gone as error:
        if query.on_gap != "reset":
            raise
        wanted = RunFilter(tenant=tenant, limit=LIMIT_MAX)
        found, freshness = await service.views.query(list_runs, wanted)
        cursor = Cursor(max(freshness.position, error.earliest - 1))
        opening = _reset(error, cursor.position, found)
    if request.method == "HEAD":
        return web.Response(headers={"Content-Type": MEDIA_TYPE})
    follower = Follower(request, service.streaming, service.closing)

    framing = Framing(tenant=tenant, types=query.type, classes=query.classes, named=query.named == "1")
    source = _source(service, query, framing, workflows=query.workflow)
    opening += await _questions(service, framing, cursor, tenant=tenant, run_id=None)
    return await follower.follow(source, cursor.position, service.live, opening=opening)


async def _questions(service: Service, framing: Framing, cursor: Cursor, *, tenant: str, run_id: str | None) -> bytes:
    """Who begins at the beginning is told of every question anyway."""
    if cursor.position == 0 or not framing.takes(run_id or "", tenant, "approval_requested"):
        return b""
    return await pending_frames(service, tenant=tenant, run_id=run_id, upto=cursor.position)


def _source(
    service: Service,
    query: StreamQuery,
    framing: Framing,
    *,
    stream: str | None = None,
    workflows: tuple[str, ...] = (),
) -> Source:
    """What the log has as ready bytes, or, where it is to be said in other words or asked of each run, made here."""
    log, what = service.log, (stream, framing, query.format, workflows)
    if query.format == "events" and not workflows:
        return Source(
            what=what,
            first=lambda after: log.framed(after=after, framing=framing, stream=stream, begins=True),
            page=lambda after: log.framed(after=after, framing=framing, stream=stream),
            pages=lambda after: log.frames(after=after, framing=framing, stream=stream),
        )
    form = Form(named=framing.named, as_json=item_json if query.format == "items" else envelope_json)
    known = _Workflows(log)

    async def made(page: Page) -> Framed:
        wanted = [event for event in page.events if framing.takes(event.run_id, event.tenant, event.type)]
        if workflows:
            wanted = [event for event in wanted if await known.of(event) in workflows]
        return Framed(
            content=b"".join(service.frames.of(event, form) for event in wanted),
            scanned_to=page.scanned_to,
            version=max((event.version for event in page.events), default=0),
            is_marked=any(event.type in framing.marks for event in page.events),
        )

    async def page(after: int) -> Framed:
        return await made(await log.page(after=after, stream=stream))

    async def pages(after: int) -> AsyncGenerator[Framed, None]:
        async with aclosing(log.tail(after=after, stream=stream)) as found:
            async for one in found:
                yield await made(one)

    return Source(what=what, first=page, page=page, pages=pages)


async def _cursor(request: web.Request, service: Service, query: StreamQuery, run_id: str | None) -> Cursor:
    """Last-Event-ID wins: a browser that reconnects repeats the address it began with."""
    text = request.headers.get("Last-Event-ID") or query.after
    cursor = Cursor(0) if text is None else parse_cursor(text)
    return await check_cursor(service.log, cursor, run_id=run_id)


def _reset(error: Gone, position: int, shown: Any) -> bytes:
    return reset_frame(Reset(code=error.code, earliest=error.earliest, position=position, snapshot=shown))


class _Workflows:
    """Which workflow a run belongs to, remembered for as many runs as one stream may cost."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._known: dict[str, str | None] = {}

    async def of(self, event: Recorded) -> str | None:
        if event.run_id not in self._known:
            while len(self._known) >= WORKFLOWS_KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[event.run_id] = await self._find(event)
        return self._known[event.run_id]

    async def _find(self, event: Recorded) -> str | None:
        # The log and not a view: a view that lags or is parked would hide the run from this stream for good.
        first, _ = await state_at(self._log, event.run_id, At(position=event.position))
        return first.workflow


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs/{run_id}/stream",
        operation="stream_run",
        handler=get_run_stream,
        summary="The run's events, live, to its end",
        needs="viewer",
        query=StreamQuery,
        media_type="text/event-stream",
    ),
    Route(
        method="GET",
        path="/api/stream",
        operation="stream_all",
        handler=get_all_stream,
        summary="The events of all runs, live",
        needs="viewer",
        query=AllStreamQuery,
        media_type="text/event-stream",
    ),
)

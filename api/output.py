"""The output of a run as its commands wrote it: whole, in ranges, its end, what came since, and as it was once."""

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

from api.files import HARMLESS
from api.guard import SCOPE
from api.reading import moment_of
from api.routes import QUERY, Route
from api.service import SERVICE, Service, last_of
from eventstore.contract import PAGE_EVENTS
from eventstore.mirrored import mirrored_log
from eventstore.objects.shared_outputs import bring_outputs
from runfold.envelope import Recorded
from runfold.errors import BadRequest, NotFound, Unavailable
from runfold.events import SubprocessOutput, TurnEnded

TAIL_LINES = 1_000  # Where only the moment is given.
TAIL_LINES_MAX = 10_000
PART_BYTES_MAX = 1024 * 1024  # Of a tail, and of what came since.


class OutputQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tail`: only the last lines. `after`: only what comes after so many bytes. Either is at most a megabyte.

    `at`: the last lines as they were at a position, at an event of the run (`v7`), or at a time.
    """

    tail: Annotated[int, msgspec.Meta(ge=1, le=TAIL_LINES_MAX)] | None = None
    after: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    at: str | None = None


async def get_output(request: web.Request) -> web.StreamResponse:
    """`output.log` as text, with ranges; `Runfold-Offset` says where in the file a part of it begins."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    last = await last_of(service, run_id, request[SCOPE].tenant)
    query: OutputQuery = request[QUERY]
    path = service.data / "runs" / run_id / "output.log"
    if mirrored_log(service.data) is not None:
        # What another machine has told of it; a store that does not answer leaves what is here.
        with suppress(Unavailable):
            await asyncio.to_thread(bring_outputs, service.data, run_id)
    if not path.is_file():
        raise NotFound(
            f"no output of run `{run_id}` is kept here", hint="it wrote none, it was cleaned, or another machine has it"
        )
    headers = {**HARMLESS, "Content-Type": "text/plain; charset=utf-8"}
    if query.after is not None:
        if query.tail is not None or query.at is not None:
            raise BadRequest("`after` is given beside `tail` or `at`", hint="what came since has neither end nor past")
        content, offset = await asyncio.to_thread(_part, path, query.after)
        # Nothing new is no error: whoever follows a file asks again and again.
        status = 200 if content else 204
        return web.Response(status=status, body=content or None, headers={**headers, "Runfold-Offset": str(offset)})
    if query.tail is None and query.at is None:
        return web.FileResponse(path, headers=headers)
    at = await moment_of(request, query.at)
    upto = None if at is None else await _written(service, run_id, at, last)
    content, offset = await asyncio.to_thread(_tail, path, query.tail or TAIL_LINES, upto)
    return web.Response(body=content, headers={**headers, "Runfold-Offset": str(offset)})


async def _written(service: Service, run_id: str, at: int, last: Recorded) -> int:
    """How many bytes the file had at a position: what the last event up to there that tells of output says."""
    log, end = service.log, last.version
    while end > 0:
        first = max(0, end - PAGE_EVENTS)
        after = (await log.position_of(run_id, first) or 0) if first else 0
        async with aclosing(log.read(after=after, stream=run_id, upto=at)) as pages:
            page = await anext(pages, None) if after < at else None
        for event in reversed(() if page is None else page.events):
            told = _told(event)
            if told is not None:
                return told
        end = first
    return 0


def _told(recorded: Recorded) -> int | None:
    """Where the output ends that an event tells of."""
    event = recorded.event()
    if isinstance(event, SubprocessOutput):
        return event.offset + len(event.text.encode())
    if isinstance(event, TurnEnded) and event.output_offset is not None:
        return event.output_offset + event.output_bytes
    return None


def _part(path: Path, after: int) -> tuple[bytes, int]:
    """What comes after so many bytes; of a file that became shorter, from its beginning."""
    with path.open("rb") as file:
        offset = 0 if after > file.seek(0, 2) else after
        file.seek(offset)
        return file.read(PART_BYTES_MAX), offset


def _tail(path: Path, lines: int, upto: int | None) -> tuple[bytes, int]:
    """The last lines of a file's first bytes and where they begin; of a line that is too long, its end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        size = size if upto is None else min(size, upto)
        start = max(0, size - PART_BYTES_MAX)
        file.seek(start)
        content = file.read(size - start)
    place = len(content) - content.endswith(b"\n")
    for _ in range(lines):
        place = content.rfind(b"\n", 0, place)
        if place < 0:
            return content, start
    return content[place + 1 :], start + place + 1


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs/{run_id}/output",
        operation="get_output",
        handler=get_output,
        summary="What the run's commands wrote: whole, in ranges, its last lines now or then, or what came since",
        needs="viewer",
        query=OutputQuery,
        media_type="text/plain",
    ),
)

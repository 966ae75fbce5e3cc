"""The output of a run, or of a step, as its commands wrote it: whole, in ranges, its end, what came since, and then."""

import asyncio
from contextlib import suppress
from typing import Annotated

import msgspec
from aiohttp import web

from api.files import HARMLESS
from api.guard import SCOPE
from api.output_parts import CHUNK_BYTES, Parts, step_parts, whole_file, whole_written
from api.reading import moment_of
from api.routes import QUERY, Route
from api.sending import SentFile
from api.service import SERVICE, last_of
from eventstore.mirrored import mirrored_log
from eventstore.objects.shared_outputs import bring_outputs
from eventstore.run_files import output_path
from runfold.errors import BadRequest, NotFound, Unavailable

TAIL_LINES = 1_000  # Where only the moment is given.
TAIL_LINES_MAX = 10_000
PART_BYTES_MAX = 1024 * 1024  # Of a tail, and of what came since.


class OutputQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tail`: only the last lines. `after`: only what comes after so many bytes. Either is at most a megabyte.

    `at`: the last lines as they were at a position, at an event of the run (`v7`), or at a time.
    `step`: only what the commands of that step wrote, also while they are at work; `attempt`: of that try alone.
    """

    tail: Annotated[int, msgspec.Meta(ge=1, le=TAIL_LINES_MAX)] | None = None
    after: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    at: str | None = None
    step: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


async def get_output(request: web.Request) -> web.StreamResponse:
    """`output.log`, or a step's part of it, as text with ranges; `Runfold-Offset` says where a part of it begins."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    tenant = request[SCOPE].tenant
    last = await last_of(service, run_id, tenant)
    query: OutputQuery = request[QUERY]
    if query.after is not None and (query.tail is not None or query.at is not None):
        raise BadRequest("`after` is given beside `tail` or `at`", hint="what came since has neither end nor past")
    if query.attempt is not None and query.step is None:
        raise BadRequest("`attempt` is given without `step`", hint="say of which step, `?step=ID&attempt=1`")
    if mirrored_log(service.data) is not None:
        # What another machine has told of it; a store that does not answer leaves what is here.
        with suppress(Unavailable):
            await asyncio.to_thread(bring_outputs, service.data, run_id)
    at = await moment_of(request, query.at)
    headers = {**HARMLESS, "Content-Type": "text/plain; charset=utf-8"}
    if query.step is not None:
        parts = await step_parts(
            service, run_id, query.step, tenant=tenant, attempt=query.attempt, at=at, last=last
        )  # fmt: skip
    else:
        path = output_path(service.data, run_id)
        if not path.is_file():
            raise NotFound(
                f"no output of run `{run_id}` is kept here",
                hint="it wrote none, it was cleaned, or another machine has it",
            )
        if query.after is None and query.tail is None and at is None:
            return SentFile(path, headers=headers)
        parts = whole_file(path, upto=None if at is None else await whole_written(service.log, run_id, at, last))
    if query.after is not None:
        content, offset = await asyncio.to_thread(_since, parts, query.after)
        # Nothing new is no error: whoever follows a file asks again and again.
        status = 200 if content else 204
        return web.Response(status=status, body=content or None, headers={**headers, "Runfold-Offset": str(offset)})
    if query.tail is not None or at is not None:
        content, offset = await asyncio.to_thread(_tail, parts, query.tail or TAIL_LINES)
        return web.Response(body=content, headers={**headers, "Runfold-Offset": str(offset)})
    return await _stream(request, parts, headers)


async def _stream(request: web.Request, parts: Parts, headers: dict[str, str]) -> web.StreamResponse:
    """All of it, or the one range that is asked for, in pieces."""
    first, end, status = 0, parts.size, 200
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(None)  # What is no range of bytes is as if it were not there (RFC 9110, 14.2).
    if wanted.start is not None:
        first, end, _ = wanted.indices(parts.size)
        if first >= end:
            return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{parts.size}"})
        status, headers = 206, {**headers, "Content-Range": f"bytes {first}-{end - 1}/{parts.size}"}
    answer = web.StreamResponse(status=status, headers={**headers, "Accept-Ranges": "bytes"})
    answer.content_length = end - first
    await answer.prepare(request)
    while first < end and (piece := await asyncio.to_thread(parts.read, first, min(CHUNK_BYTES, end - first))):
        await answer.write(piece)
        first += len(piece)
    await answer.write_eof()
    return answer


def _since(parts: Parts, after: int) -> tuple[bytes, int]:
    """What comes after so many bytes; of what became shorter, from its beginning."""
    # A step's part that ends moves from its own file into the run's: for a moment it is in neither.
    offset = 0 if after > parts.size and not parts.is_growing else after
    return parts.read(offset, PART_BYTES_MAX), offset


def _tail(parts: Parts, lines: int) -> tuple[bytes, int]:
    """The last lines and where they begin; of a line that is too long, its end."""
    start = max(0, parts.size - PART_BYTES_MAX)
    content = parts.read(start, parts.size - start)
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
        summary="What the run's commands, or a step's, wrote: whole, in ranges, its last lines now or then, or since",
        needs="viewer",
        query=OutputQuery,
        media_type="text/plain",
    ),
)

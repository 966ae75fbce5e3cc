"""The files of a run: its whole output as it was written, and the artifacts that come with it."""

import asyncio
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from aiohttp import web

from api.acting import command_id_of
from api.answers import json_response
from api.guard import SCOPE
from api.routes import QUERY, Route
from api.service import SERVICE, known_run, last_of
from eventstore import blobs
from eventstore.mirrored import mirrored_log
from eventstore.shared_outputs import bring_outputs
from projections import artifacts
from runfold.commands import Observe
from runfold.errors import BadRequest, NotFound, TooLarge, Unavailable
from runfold.events import ArtifactStored

ARTIFACT_BYTES_MAX = 1024**3
NAME_CHARACTERS_MAX = 255
TAIL_LINES_MAX = 10_000
TAIL_BYTES_MAX = 1024 * 1024
CHUNK_BYTES = 256 * 1024
# What an agent wrote must never act in the dashboard's origin, whatever it says it is.
_HARMLESS = {"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff"}


class OutputQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tail`: only the last lines, at most a megabyte of them."""

    tail: Annotated[int, msgspec.Meta(ge=1, le=TAIL_LINES_MAX)] | None = None


class ArtifactQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    step: str | None = None
    media_type: Annotated[str, msgspec.Meta(pattern=r"^[\w.+-]{1,100}/[\w.+-]{1,100}$")] = "application/octet-stream"


class ArtifactAnswer(msgspec.Struct, frozen=True, kw_only=True):
    artifact_id: str
    name: str
    sha256: str
    size_bytes: int
    position: int


async def get_output(request: web.Request) -> web.StreamResponse:
    """`output.log` as text, with ranges; `Runfold-Offset` says where in the file a tail begins."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    await last_of(service, run_id, request[SCOPE].tenant)
    query: OutputQuery = request[QUERY]
    path = service.data / "runs" / run_id / "output.log"
    if mirrored_log(service.data) is not None:
        # What another machine has told of it; a store that does not answer leaves what is here.
        with suppress(Unavailable):
            await asyncio.to_thread(bring_outputs, service.data, run_id)
    headers = {**_HARMLESS, "Content-Type": "text/plain; charset=utf-8"}
    if not path.is_file():
        raise NotFound(
            f"no output of run `{run_id}` is kept here", hint="it wrote none, it was cleaned, or another machine has it"
        )
    if query.tail is None:
        return web.FileResponse(path, headers=headers)
    content, offset = await asyncio.to_thread(_tail, path, query.tail)
    return web.Response(body=content, headers={**headers, "Runfold-Offset": str(offset)})


async def put_artifact(request: web.Request) -> web.Response:
    """Take the bytes as they come, keep them as a blob, and then say in the run's log that they are there."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    query: ArtifactQuery = request[QUERY]
    run = await known_run(service, run_id, request[SCOPE].tenant)
    name = request.match_info["artifact"]
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise BadRequest("that is no name for an artifact", hint=f"1 to {NAME_CHARACTERS_MAX} printable characters")
    if (request.content_length or 0) > ARTIFACT_BYTES_MAX:
        raise _too_large(name)
    command_id = command_id_of(request)
    incoming = await asyncio.to_thread(blobs.Incoming, service.data)
    try:
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            if incoming.size_bytes + len(chunk) > ARTIFACT_BYTES_MAX:
                raise _too_large(name)
            await asyncio.to_thread(incoming.write, chunk)
        sha256 = await asyncio.to_thread(incoming.keep)
    finally:
        await asyncio.to_thread(incoming.discard)
    stored = ArtifactStored(
        artifact_id=str(uuid.uuid5(uuid.UUID(command_id), name)),
        name=name,
        sha256=sha256,
        media_type=query.media_type,
        size_bytes=incoming.size_bytes,
        step=query.step,
    )
    executed = await service.ledger.execute(
        run.run_id,
        Observe(events=(stored,)),
        command_id=command_id,
        actor=request[SCOPE].actor,
        tenant=request[SCOPE].tenant,
    )
    answer = ArtifactAnswer(
        artifact_id=stored.artifact_id,
        name=name,
        sha256=sha256,
        size_bytes=incoming.size_bytes,
        position=executed.events[-1].position,
    )
    location = f"/api/runs/{run_id}/artifacts/{stored.artifact_id}"
    return json_response(answer, status=201, headers={"Location": location})


async def get_artifact(request: web.Request) -> web.StreamResponse:
    """The bytes as a download, with ranges: whatever they are, a browser must not show them in our origin."""
    service, run_id = request.app[SERVICE], request.match_info["run_id"]
    tenant = request[SCOPE].tenant
    await last_of(service, run_id, tenant)
    found, _ = await service.views.query(artifacts.get_artifact, run_id, request.match_info["artifact"], tenant=tenant)
    if found is None:
        raise NotFound(
            f"run `{run_id}` has no such artifact", hint=f"`GET /api/runs/{run_id}/artifacts` lists them", run_id=run_id
        )
    disposition = f"attachment; filename*=UTF-8''{quote(found.name, safe='')}"
    headers = {**_HARMLESS, "Content-Type": found.media_type, "Content-Disposition": disposition}
    return web.FileResponse(blobs.path_of(service.data, found.sha256), headers=headers)


def _tail(path: Path, lines: int) -> tuple[bytes, int]:
    """The last lines of a file and where they begin; of a line that is too long, its end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - TAIL_BYTES_MAX)
        file.seek(start)
        content = file.read(size - start)
    place = len(content) - content.endswith(b"\n")
    for _ in range(lines):
        place = content.rfind(b"\n", 0, place)
        if place < 0:
            return content, start
    return content[place + 1 :], start + place + 1


def _too_large(name: str) -> TooLarge:
    return TooLarge(
        f"artifact `{name}` has more than {ARTIFACT_BYTES_MAX} bytes", hint="store it elsewhere and report its address"
    )


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs/{run_id}/output",
        operation="get_output",
        handler=get_output,
        summary="What the run's commands wrote, whole, in ranges, or its last lines",
        needs="viewer",
        query=OutputQuery,
        media_type="text/plain",
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/artifacts/{artifact}",
        operation="get_artifact",
        handler=get_artifact,
        summary="The bytes of an artifact, by its id",
        needs="viewer",
        media_type="application/octet-stream",
    ),
    Route(
        method="PUT",
        path="/api/runs/{run_id}/artifacts/{artifact}",
        operation="store_artifact",
        handler=put_artifact,
        summary="Keep a file of the run: the body is its bytes",
        needs="operator",
        query=ArtifactQuery,
        answer=ArtifactAnswer,
        status=201,
        streamed=True,
    ),
)

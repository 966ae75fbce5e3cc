"""The artifacts of a run: taken in as they come, given as downloads."""

import asyncio
import uuid
from typing import Annotated
from urllib.parse import quote

import msgspec
from aiohttp import web

from api.acting import command_id_of
from api.answers import json_response
from api.asking import query_views
from api.guard import SCOPE
from api.routes import QUERY, Route
from api.sending import SentFile
from api.service import SERVICE, known_run, last_of
from eventstore.objects import blobs
from projections import artifacts
from runfold.commands import Observe
from runfold.errors import BadRequest, NotFound, TooLarge
from runfold.events import ArtifactStored

ARTIFACT_BYTES_MAX = 1024**3
NAME_CHARACTERS_MAX = 255
CHUNK_BYTES = 256 * 1024
# What an agent wrote must never act in the dashboard's origin, whatever it says it is.
HARMLESS = {"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff"}


class ArtifactQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    step: str | None = None
    media_type: Annotated[str, msgspec.Meta(pattern=r"^[\w.+-]{1,100}/[\w.+-]{1,100}$")] = "application/octet-stream"


class ArtifactAnswer(msgspec.Struct, frozen=True, kw_only=True):
    artifact_id: str
    name: str
    sha256: str
    size_bytes: int
    position: int


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
    found, _ = await query_views(
        service, 0, artifacts.get_artifact, run_id, request.match_info["artifact"], tenant=tenant
    )
    if found is None:
        raise NotFound(
            f"run `{run_id}` has no such artifact", hint=f"`GET /api/runs/{run_id}/artifacts` lists them", run_id=run_id
        )
    disposition = f"attachment; filename*=UTF-8''{quote(found.name, safe='')}"
    headers = {**HARMLESS, "Content-Type": found.media_type, "Content-Disposition": disposition}
    return SentFile(blobs.path_of(service.data, found.sha256), headers=headers)


def _too_large(name: str) -> TooLarge:
    return TooLarge(
        f"artifact `{name}` has more than {ARTIFACT_BYTES_MAX} bytes", hint="store it elsewhere and report its address"
    )


ROUTES: tuple[Route, ...] = (
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

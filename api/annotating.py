"""What people write on runs over HTTP: a title, labels, notes; of any run, also one that is over."""

from typing import Annotated

import msgspec
from aiohttp import web

from api.acting import key_of, snapshot_response
from api.guard import SCOPE
from api.routes import BODY, Route
from api.service import SERVICE, known_run
from runfold.annotating import LABELS_CHANGED_MAX, NOTE_CHARACTERS_MAX
from runfold.commands import Annotate
from runfold.errors import BadRequest
from runfold.reporting import Text
from runfold.snapshot import Snapshot

Labels = Annotated[dict[str, str | None], msgspec.Meta(max_length=LABELS_CHANGED_MAX)]
Note = Annotated[str, msgspec.Meta(max_length=NOTE_CHARACTERS_MAX)]


class DescribeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is; a label that is null is taken away."""

    title: Text | None = None
    labels: Labels = {}
    note: Note = ""


class NoteBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=NOTE_CHARACTERS_MAX)]


async def patch_run(request: web.Request) -> web.Response:
    body: DescribeBody = request[BODY]
    if body == DescribeBody():
        raise BadRequest("there is nothing to change", hint="give `title`, `labels` or `note`")
    return await _annotate(request, Annotate(title=body.title, labels=body.labels, note=body.note), status=200)


async def post_note(request: web.Request) -> web.Response:
    body: NoteBody = request[BODY]
    return await _annotate(request, Annotate(note=body.text), status=201)


async def _annotate(request: web.Request, command: Annotate, *, status: int) -> web.Response:
    service, scope, run_id = request.app[SERVICE], request[SCOPE], request.match_info["run_id"]
    await known_run(service, run_id, scope.tenant)
    executed = await service.ledger.execute(
        run_id, command, command_id=key_of(request), actor=scope.actor, tenant=scope.tenant
    )
    return await snapshot_response(request, executed, status=status)


ROUTES: tuple[Route, ...] = (
    Route(
        method="PATCH",
        path="/api/runs/{run_id}",
        operation="describe_run",
        handler=patch_run,
        summary="Change the run's title and labels, or add a note",
        needs="operator",
        body=DescribeBody,
        answer=Snapshot,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/notes",
        operation="add_note",
        handler=post_note,
        summary="Add a note to the run",
        needs="operator",
        body=NoteBody,
        answer=Snapshot,
        status=201,
    ),
)

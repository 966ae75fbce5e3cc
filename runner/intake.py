"""Takes in what clients say without a server: lines of `runfold ingest`, and the files that were left for us.

A line is what a request over HTTP would be, and gets the same command id, so whatever came another way is known.
"""

import asyncio
import fcntl
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from eventstore.ledger import Executed, Ledger
from eventstore.objects import blobs
from projections.spending import Left, keep_budgets, may_start, no_budgets
from runfold.client.place import SPOOL_FOLDER
from runfold.client.requests import Answer, ArtifactBody, Request, Told, route_of
from runfold.client.spool import read_head, read_requests, remove_spool
from runfold.commands import Command, LoseClaim, Observe
from runfold.envelope import run_id_of, time_us
from runfold.errors import AlreadyFinal, BadRequest, RunfoldError
from runfold.events import ArtifactStored
from runfold.reporting import (
    AskBody,
    ControlBody,
    EventsAnswer,
    EventsBody,
    ExternalBody,
    HeartbeatAnswer,
    ask_command,
    ats_us_of,
    control_command,
    ids_of,
    keyed_command_id,
    observe_command,
    open_command,
)

_T = TypeVar("_T")
FILES_MAX = 1_000  # A folder with more is taken in over several looks.


class Intake:
    def __init__(
        self, ledger: Ledger, *, data: Path, actor: str, tenant: str = "default", left: Left = no_budgets
    ) -> None:
        """`left` tells the budgets of a run that reports now; what a file tells is over, and is taken as it was."""
        self._left = left
        self._ledger = ledger
        self._data = data
        self._actor = actor
        self._tenant = tenant

    async def answer(self, request: Request) -> Answer:
        """What a server would answer; a refusal is an answer too."""
        try:
            body = await self._carry_out(request)
            now = "" if request.do != "report" else (await self._ledger.state(request.run)).status or ""
            return _answer(200, body, run_status=now)
        except RunfoldError as error:
            problem = {"code": error.code, "detail": error.message, "hint": error.hint, "run_id": error.run_id}
            return _answer(error.status, problem)

    async def take_in(self, path: Path) -> str | None:
        """Take in a file whose writer is gone; the run's id, or None where it is still written or not for us."""
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if (await asyncio.to_thread(read_head, path)).url:
                return None
            ended = False
            for request in read_requests(path):
                answer = await self.answer(request)
                if answer.status >= 500:
                    return None
                ended = ended or request.do == "control"
            run_id = path.stem
            if not ended:
                await self._lose(run_id)
            remove_spool(path)
            return run_id
        return None

    async def _carry_out(self, request: Request) -> object:
        method, path = route_of(request)
        key = keyed_command_id(self._tenant, method, path, request.key)
        match request.do:
            case "open":
                body = _decode(request, ExternalBody)
                opened = await self._execute(run_id_of(uuid.UUID(key)), open_command(body), key, request)
                return Told(id=opened.run.run_id, status=opened.run.status or "")
            case "report":
                return await self._report(request, key)
            case "heartbeat":
                run = await self._ledger.state(request.run, tenant=self._tenant)
                if run.is_final:
                    raise AlreadyFinal(f"run `{run.run_id}` is already {run.status}", hint="stop reporting it")
                return HeartbeatAnswer(
                    run_id=run.run_id, status=run.status or "", version=run.version, lease_seconds=run.lease_seconds
                )
            case "control":
                return await self._told(request, key, control_command(_decode(request, ControlBody)))
            case "ask":
                return await self._told(request, key, ask_command(_decode(request, AskBody)))
            case "artifact":
                return await self._told(request, key, await self._stored(request, key))

    async def _report(self, request: Request, key: str) -> EventsAnswer:
        body = _decode(request, EventsBody)
        command = observe_command(body)
        if may_start(command):
            run = await self._ledger.state(request.run, tenant=self._tenant)
            await keep_budgets(self._ledger, self._left, run, command)
        executed = await self._ledger.execute(
            request.run,
            command,
            command_id=key,
            actor=self._actor,
            tenant=self._tenant,
            ids=ids_of(body),
            ats_us=ats_us_of(body),
        )
        first, last, version = executed.ends
        return EventsAnswer(first=first, last=last, version=version, duplicate=executed.duplicate)

    async def _stored(self, request: Request, key: str) -> Observe:
        body = _decode(request, ArtifactBody)
        try:
            content = await asyncio.to_thread(Path(body.path).read_bytes)
        except OSError as error:
            raise BadRequest(f"`{body.path}` cannot be read: {error.strerror}") from error
        sha256 = await asyncio.to_thread(blobs.put, self._data, content)
        stored = ArtifactStored(
            artifact_id=str(uuid.uuid5(uuid.UUID(key), body.name)),
            name=body.name,
            sha256=sha256,
            media_type=body.media_type,
            size_bytes=len(content),
            step=body.step,
        )
        return Observe(events=(stored,))

    async def _told(self, request: Request, key: str, command: Command) -> Told:
        run = (await self._execute(request.run, command, key, request)).run
        return Told(id=run.run_id, status=run.status or "")

    async def _execute(self, run_id: str, command: Command, key: str, request: Request) -> Executed:
        at_us = None if request.at is None else time_us(request.at)
        return await self._ledger.execute(
            run_id, command, command_id=key, actor=self._actor, tenant=self._tenant, at_us=at_us
        )

    async def _lose(self, run_id: str) -> None:
        lost = LoseClaim(claim=0, reason="its program ended without a word")
        with suppress(RunfoldError):
            await self._ledger.execute(run_id, lost, actor="system", tenant=self._tenant)


async def take_in_spool(ledger: Ledger, data: Path, *, actor: str) -> list[str]:
    """Take in every file that was left for this folder's log; the ids of their runs."""
    folder = data / SPOOL_FOLDER
    if not folder.is_dir():
        return []
    intake = Intake(ledger, data=data, actor=actor)
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")[:FILES_MAX]
    taken: list[str] = []
    for path in paths:
        # What cannot be read stays where it is, for a person to look at.
        with suppress(OSError, msgspec.MsgspecError):
            if (run_id := await intake.take_in(path)) is not None:
                taken.append(run_id)
    return taken


def _decode(request: Request, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"the body of `{request.do}` is not valid: {error}", hint="see docs/client.md") from error


def _answer(status: int, body: object, *, run_status: str = "") -> Answer:
    return Answer(status=status, body=msgspec.Raw(msgspec.json.encode(body)), run_status=run_status)

"""Many runs at once: first what would become of each, then the same wish put to each, with an answer for each."""

import asyncio
import time
from collections import Counter
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from api.acting import key_for, run_after
from api.answers import json_response
from api.asking import refuse_behind
from api.guard import SCOPE
from api.retrying import RetryBody, check_retry, retry
from api.routes import BODY, Route
from api.service import SERVICE, Service, known_run, next_driver
from api.sessions import Scope
from projections.run_list import RunFilter, list_runs
from runfold.commands import Cancel, Pause, Resume
from runfold.decide import decide
from runfold.errors import BadRequest, KeyReused, RunfoldError
from runfold.ordered_ids import ordered_id
from runfold.reporting import Text
from runfold.state import Run, Status

RUNS_MAX = 200  # Of one request; so many appends take about a second.
AT_ONCE = 16
Action = Literal["cancel", "pause", "resume", "retry"]
Outcome = Literal["would", "done", "already", "refused"]
_COMMANDS: dict[str, type[Cancel] | type[Pause] | type[Resume]] = {"cancel": Cancel, "pause": Pause, "resume": Resume}


class BulkFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As the list of runs is filtered."""

    status: tuple[Status, ...] = ()
    workflow: str | None = None
    q: str | None = None
    label: str | None = None
    created_after: str | None = None
    created_before: str | None = None


class BulkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dry_run` says what would become of each run and changes nothing; only it takes a `filter` in place of ids.

    So nothing is done to a run that nobody saw: what the preview lists is sent back as `ids`.
    """

    action: Action
    ids: Annotated[tuple[Text, ...], msgspec.Meta(max_length=RUNS_MAX)] = ()
    filter: BulkFilter | None = None
    reason: Text = ""
    dry_run: bool = False


class BulkItem(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is the run's after the wish; `code`, `detail` and `hint` say why it was refused."""

    id: str
    outcome: Outcome
    status: Status | None = None
    title: str = ""
    new_run_id: str | None = None
    code: str = ""
    detail: str = ""
    hint: str = ""


class BulkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`matched` runs were meant, of which `items` are the first; `counts` counts these by outcome."""

    action: Action
    dry_run: bool
    matched: int
    counts: dict[Outcome, int]
    items: tuple[BulkItem, ...]


async def post_bulk(request: web.Request) -> web.Response:
    body: BulkBody = request[BODY]
    service, scope = request.app[SERVICE], request[SCOPE]
    ids, matched = await _wanted(service, scope, body)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(run_id: str) -> BulkItem | RunfoldError:
        async with places:
            command_id = key_for(request, f"{request.path}/{run_id}") or ordered_id()
            return await _one(service, scope, run_id, body, command_id)

    async with asyncio.TaskGroup() as tasks:
        coming = [tasks.create_task(one(run_id)) for run_id in ids]
    items = tuple(_item(task.result()) for task in coming)
    counts: Counter[Outcome] = Counter(item.outcome for item in items)
    return json_response(
        BulkAnswer(action=body.action, dry_run=body.dry_run, matched=matched, counts=dict(counts), items=items)
    )


async def _wanted(service: Service, scope: Scope, body: BulkBody) -> tuple[list[str], int]:
    """The ids in order, each once, and how many there would be without the bound."""
    if body.filter is None:
        ids = list(dict.fromkeys(body.ids))
        if not ids:
            raise BadRequest("no run is named", hint="give `ids`, or with `dry_run` a `filter`")
        return ids, len(ids)
    if body.ids or not body.dry_run:
        raise BadRequest(
            "a `filter` is for a `dry_run` without `ids`", hint="send the ids that the preview lists back as `ids`"
        )
    wanted = RunFilter(tenant=scope.tenant, limit=RUNS_MAX, **msgspec.structs.asdict(body.filter))
    found, freshness = await service.views.query(list_runs, wanted)
    refuse_behind(freshness)
    return [item.id for item in found.items], found.total


def _item(answer: BulkItem | RunfoldError) -> BulkItem:
    """Raises what is no answer about one run, now that all have been asked: the same key asks again."""
    if isinstance(answer, RunfoldError):
        raise answer
    return answer


async def _one(service: Service, scope: Scope, run_id: str, body: BulkBody, command_id: str) -> BulkItem | RunfoldError:
    title = ""
    status: Status | None = None
    try:
        run = await known_run(service, run_id, scope.tenant)
        title, status = run.title, run.status
        if body.dry_run:
            outcome: Outcome = "would" if await _would_change(service, scope, run, body) else "already"
            return BulkItem(id=run_id, outcome=outcome, status=status, title=title)
        if body.action == "retry":
            answer = await retry(service, scope, run, RetryBody(), command_id)
            return BulkItem(id=run_id, outcome="done", status=status, title=title, new_run_id=answer.new_run_id)
        executed = await service.ledger.execute(
            run_id,
            await _command(service, scope, run, body),
            command_id=command_id,
            actor=scope.actor,
            tenant=scope.tenant,
        )
        after, _ = await run_after(service, executed)
        return BulkItem(
            id=run_id, outcome="done" if executed.events else "already", status=after.status, title=after.title
        )
    except RunfoldError as error:
        if error.status >= 500 or isinstance(error, KeyReused):
            return error
        return BulkItem(
            id=run_id, outcome="refused", status=status, title=title,
            code=error.code, detail=error.message, hint=error.hint,
        )  # fmt: skip


async def _would_change(service: Service, scope: Scope, run: Run, body: BulkBody) -> bool:
    """Whether the wish would be granted with an event now. Raises what it would be refused with."""
    if body.action == "retry":
        await check_retry(service, scope, run)
        return True
    return bool(decide(run, await _command(service, scope, run, body), time.time_ns() // 1_000))


async def _command(service: Service, scope: Scope, run: Run, body: BulkBody) -> Cancel | Pause | Resume:
    if body.action == "resume":
        return Resume(reason=body.reason, driver=await next_driver(service, scope, run))
    return _COMMANDS[body.action](reason=body.reason)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/runs/bulk",
        operation="act_on_runs",
        handler=post_bulk,
        summary="Cancel, pause, resume or retry up to 200 runs, or say what that would do",
        needs="operator",
        body=BulkBody,
        answer=BulkAnswer,
    ),
)

"""Questions to people over HTTP: listed, and answered exactly once."""

from contextlib import suppress
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from api.acting import command_id_of
from api.answers import view_response
from api.asking import Limit, ViewQuery, query_views
from api.frames import pending_frame
from api.guard import SCOPE
from api.routes import BODY, QUERY, Route
from api.service import SERVICE, Service, known_run, next_driver
from projections.approvals import (
    LIMIT_MAX,
    ApprovalFilter,
    ApprovalItem,
    ApprovalList,
    ApprovalStatus,
    get_approval,
    list_approvals,
)
from runfold.commands import Command, Deny, Grant
from runfold.errors import Forbidden, NotFound, RunfoldError
from runfold.events import Driver, Json
from runfold.reporting import Text

Dollars = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Name = Annotated[str, msgspec.Meta(max_length=100)]
Position = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,15}$")]


class ApprovalsQuery(ViewQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: tuple[ApprovalStatus, ...] = ()
    limit: Annotated[int, Limit] = 50
    cursor: Position | None = None


class AnswerBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`amount_usd` is the new limit of the cost, `limits` any others; `digest` is of what the person saw."""

    decision: Literal["grant", "deny"]
    comment: Text = ""
    limits: dict[str, Json] = {}
    amount_usd: Dollars | None = None
    digest: Name | None = None


async def get_approvals(request: web.Request) -> web.Response:
    """Of one run where the path names it, else of all runs of the tenant."""
    query: ApprovalsQuery = request[QUERY]
    service, tenant, run_id = request.app[SERVICE], request[SCOPE].tenant, request.match_info.get("run_id")
    if run_id is not None:
        await known_run(service, run_id, tenant)
    wanted = ApprovalFilter(
        tenant=tenant,
        run_id=run_id,
        status=query.status,
        limit=query.limit,
        before=None if query.cursor is None else int(query.cursor),
    )
    found, freshness = await query_views(service, query.min_position, list_approvals, wanted)
    return view_response(found, freshness)


async def pending_frames(service: Service, *, tenant: str, run_id: str | None, upto: int) -> bytes:
    """The open questions that were asked up to a position: whoever reads on from there has not been told of them."""
    wanted = ApprovalFilter(tenant=tenant, run_id=run_id, status=("pending",), limit=LIMIT_MAX, before=upto + 1)
    # A stream is the log's, and does not end because a view is late.
    with suppress(RunfoldError):
        found, freshness = await service.views.query(list_approvals, wanted)
        if freshness.position < upto:
            found, _ = await service.views.query_whole(list_approvals, wanted)
        return b"".join(pending_frame(item) for item in reversed(found.items))
    return b""


async def post_answer(request: web.Request) -> web.Response:
    body: AnswerBody = request[BODY]
    name = request.match_info["approval_id"]
    command: Command = Deny(approval_id=name, comment=body.comment)
    if body.decision == "grant":
        command = Grant(
            approval_id=name,
            comment=body.comment,
            amount_micros=_micros(body.amount_usd),
            limits=body.limits,
            digest=body.digest,
            driver=await _next_driver(request, name),
        )
    return await _act(request, command)


async def _next_driver(request: web.Request, name: str) -> Driver | None:
    """Who goes on once the answer is there; an answer is taken also where nobody here would."""
    service, scope = request.app[SERVICE], request[SCOPE]
    run = await known_run(service, request.match_info["run_id"], scope.tenant)
    if run.waiting_on != f"approval:{name}":
        return None
    with suppress(Forbidden):
        return await next_driver(service, scope, run)
    return None


async def _act(request: web.Request, command: Command) -> web.Response:
    service, scope, run_id = request.app[SERVICE], request[SCOPE], request.match_info["run_id"]
    await known_run(service, run_id, scope.tenant)
    executed = await service.ledger.execute(
        run_id, command, command_id=command_id_of(request), actor=scope.actor, tenant=scope.tenant
    )
    position = max((event.position for event in executed.events), default=0)
    name = next((found for it in executed.events if (found := getattr(it.event(), "approval_id", ""))), "")
    found, freshness = await query_views(service, position, get_approval, run_id, name)
    if found is None:
        raise NotFound(
            f"run `{run_id}` has no approval `{name}`", hint=f"`GET /api/runs/{run_id}/approvals`", run_id=run_id
        )
    return view_response(found, freshness)


def _micros(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * 1_000_000)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/approvals",
        operation="list_approvals",
        handler=get_approvals,
        summary="The questions to people, newest first",
        needs="viewer",
        query=ApprovalsQuery,
        answer=ApprovalList,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/approvals",
        operation="list_run_approvals",
        handler=get_approvals,
        summary="The run's questions to people, newest first",
        needs="viewer",
        query=ApprovalsQuery,
        answer=ApprovalList,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/approvals/{approval_id}",
        operation="answer_approval",
        handler=post_answer,
        summary="Grant or deny, once",
        needs="operator",
        body=AnswerBody,
        answer=ApprovalItem,
    ),
)

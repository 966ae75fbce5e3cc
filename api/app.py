"""The HTTP application: the table of everything it answers, and the wiring round it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from api import (
    acting,
    admin,
    approvals,
    dashboard,
    explaining,
    files,
    history_queries,
    launching,
    pages,
    reading,
    retrying,
    run_queries,
    sse,
    steps,
)
from api.answers import json_response
from api.following import Streaming
from api.guard import make_guard
from api.openapi import openapi
from api.problems import add_headers, problems
from api.routes import Route, register
from api.service import SERVICE, Renew, Service
from api.sessions import Scope, Sessions
from eventstore.contract import EventLog
from eventstore.ledger import Ledger
from projections.history import Transition
from projections.run_list import RunList
from projections.service import ViewService
from projections.spending import Left, no_budgets
from runfold import reporting
from runfold.difference import Difference
from runfold.envelope import _Envelope as Envelope
from runfold.markdown import Why
from runfold.snapshot import Snapshot
from runfold.workflows import Registry

BODY_BYTES_MAX = 1024 * 1024
ROUTES: web.AppKey[Mapping[web.AbstractRoute, Route]] = web.AppKey("routes", Mapping)


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[Envelope, ...]
    total: int | None
    next_cursor: str | None


class History(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[Transition, ...]
    total: int
    next_cursor: str | None = None


async def get_openapi(request: web.Request) -> web.Response:
    return json_response(openapi(dict.fromkeys(request.app[ROUTES].values())))


TABLE: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs",
        operation="list_runs",
        handler=reading.get_runs,
        summary="The runs, newest first",
        query=reading.RunsQuery,
        answer=RunList,
    ),
    Route(
        method="POST",
        path="/api/runs",
        operation="start_run",
        handler=launching.post_run,
        summary="Queue a run of a registered workflow",
        needs="operator",
        body=launching.LaunchBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="POST",
        path="/api/runs/continuous",
        operation="start_continuous_run",
        handler=launching.post_run,
        summary="Queue an agent loop of a registered workflow",
        needs="operator",
        body=launching.ContinuousBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="GET",
        path="/api/workflows",
        operation="list_workflows",
        handler=launching.get_workflows,
        summary="The registered workflows with their parameters",
        answer=launching.WorkflowList,
    ),
    Route(
        method="POST",
        path="/api/runs/external",
        operation="open_reported_run",
        handler=acting.post_external,
        summary="Open a run that the caller drives",
        needs="operator",
        body=reporting.ExternalBody,
        answer=Snapshot,
        status=201,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}",
        operation="get_run",
        handler=reading.get_one,
        summary="The run as it is now, or as it was",
        query=reading.RunQuery,
        answer=Snapshot,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/status",
        operation="get_run_status",
        handler=reading.get_one,
        summary="The run as it is now, or as it was",
        query=reading.RunQuery,
        answer=Snapshot,
    ),
    Route(
        method="DELETE",
        path="/api/runs/{run_id}",
        operation="cancel_run",
        handler=acting.delete_run,
        summary="Cancel the run",
        needs="operator",
        body=acting.CancelBody,
        answer=Snapshot,
        status=202,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/events",
        operation="list_events",
        handler=reading.get_events,
        summary="Recorded events in order of position",
        query=reading.EventsQuery,
        answer=EventList,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/events",
        operation="report_events",
        handler=acting.post_events,
        summary="Report what happened, all or nothing",
        needs="operator",
        body=reporting.EventsBody,
        answer=reporting.EventsAnswer,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/history",
        operation="get_history",
        handler=reading.get_history,
        summary="The run's status transitions",
        query=reading.ViewQuery,
        answer=History,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/report",
        operation="get_report",
        handler=explaining.get_report,
        summary="The run as a Markdown report",
        media_type="text/markdown",
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/why",
        operation="get_why",
        handler=explaining.get_why,
        summary="The causes of the run's present status, the nearest first",
        answer=Why,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/diff/{other_id}",
        operation="get_difference",
        handler=explaining.get_difference,
        summary="Where two runs part, and what each then made, took and cost",
        answer=Difference,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/output",
        operation="get_output",
        handler=files.get_output,
        summary="What the run's commands wrote, whole, in ranges, or its last lines",
        query=files.OutputQuery,
        media_type="text/plain",
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/artifacts/{artifact}",
        operation="get_artifact",
        handler=files.get_artifact,
        summary="The bytes of an artifact, by its id",
        media_type="application/octet-stream",
    ),
    Route(
        method="PUT",
        path="/api/runs/{run_id}/artifacts/{artifact}",
        operation="store_artifact",
        handler=files.put_artifact,
        summary="Keep a file of the run: the body is its bytes",
        needs="operator",
        query=files.ArtifactQuery,
        answer=files.ArtifactAnswer,
        status=201,
        streamed=True,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/stream",
        operation="stream_run",
        handler=sse.get_run_stream,
        summary="The run's events, live, to its end",
        query=sse.StreamQuery,
        media_type="text/event-stream",
    ),
    Route(
        method="GET",
        path="/api/stream",
        operation="stream_all",
        handler=sse.get_all_stream,
        summary="The events of all runs, live",
        query=sse.AllStreamQuery,
        media_type="text/event-stream",
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/heartbeat",
        operation="heartbeat",
        handler=acting.post_heartbeat,
        summary="Say that the reporter is still there",
        needs="operator",
        answer=reporting.HeartbeatAnswer,
    ),
    Route(
        method="POST",
        path="/api/runs/{run_id}/control",
        operation="control_run",
        handler=acting.post_control,
        summary="Pause, resume, cancel; of reported runs also their end",
        needs="operator",
        body=reporting.ControlBody,
        answer=Snapshot,
        status=202,
    ),
    *history_queries.ROUTES,
    *run_queries.ROUTES,
    *admin.ROUTES,
    *steps.ROUTES,
    *retrying.ROUTES,
    *approvals.ROUTES,
    Route(
        method="POST",
        path="/api/runs/{run_id}/approvals",
        operation="ask_for_approval",
        handler=acting.post_approval,
        summary="Ask a person; the run is paused until the answer",
        needs="operator",
        body=reporting.AskBody,
        answer=Snapshot,
        status=201,
    ),
    Route(
        method="GET",
        path="/api/openapi.json",
        operation="get_openapi",
        handler=get_openapi,
        summary="This description",
        answer=dict[str, Any],
    ),
    Route(
        method="GET",
        path="/livez",
        operation="livez",
        handler=pages.get_livez,
        summary="The process is alive",
        needs="open",
        answer=pages.Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        operation="readyz",
        handler=pages.get_readyz,
        summary="The log can be read; views that stay behind are listed with their remedy",
        needs="open",
        answer=pages.Readiness,
    ),
    Route(
        method="GET",
        path="/login",
        operation="login",
        handler=pages.get_login,
        summary="Log a browser in with a one-time code",
        needs="open",
        query=pages.LoginQuery,
        status=303,
        linked=True,
    ),
    Route(
        method="GET",
        path="/session",
        operation="get_session",
        handler=pages.get_session,
        summary="Whose session or token this is, and what it may do",
        answer=pages.SessionAnswer,
    ),
    Route(
        method="POST",
        path="/session",
        operation="open_session",
        handler=pages.post_session,
        summary="Log a browser in with a token",
        needs="open",
        body=pages.SessionBody,
        status=204,
    ),
    Route(
        method="DELETE",
        path="/session",
        operation="close_session",
        handler=pages.delete_session,
        summary="Log the browser out",
        needs="open",
        status=204,
    ),
    *(
        Route(
            method="GET",
            path=path,
            operation=f"page_{path}",
            handler=dashboard.get_dashboard,
            summary="A page of the dashboard",
            needs="open",
            query=dashboard.AnyQuery,
            media_type="text/html",
            linked=True,
            described=False,
        )
        for path in dashboard.PAGES
    ),
    Route(
        method="GET",
        path="/assets/{name}",
        operation="dashboard_file",
        handler=dashboard.get_asset,
        summary="A file of the dashboard",
        needs="open",
        media_type="application/octet-stream",
        described=False,
    ),
    Route(
        method="GET",
        path="/app.js",
        operation="page_script",
        handler=pages.get_script,
        summary="The script of the page",
        needs="open",
        media_type="text/javascript",
        described=False,
    ),
)


def make_app(
    *,
    log: EventLog,
    ledger: Ledger,
    views: ViewService,
    data: Path,
    token: str,
    allowed_hosts: frozenset[str],
    tokens: Mapping[str, Scope] | None = None,
    renew: Renew | None = None,
    streaming: Streaming | None = None,
    registry: Callable[[], Registry] = Registry,
    left: Left = no_budgets,
) -> web.Application:
    """`token` is the admin of all tenants; `tokens` maps sha256 hex digests of others to their scopes."""
    admin = {hashlib.sha256(token.encode()).hexdigest(): Scope(tenant="*", role="admin", actor="user:admin")}
    sessions = Sessions({**(tokens or {}), **admin})
    routes: dict[web.AbstractRoute, Route] = {}
    app = web.Application(
        client_max_size=BODY_BYTES_MAX, middlewares=[problems, make_guard(sessions, routes, allowed_hosts)]
    )
    app[SERVICE] = Service(
        log=log,
        ledger=ledger,
        views=views,
        data=data,
        sessions=sessions,
        renew=renew,
        streaming=streaming or Streaming(),
        registry=registry,
        left=left,
    )
    app[ROUTES] = routes
    routes.update(register(app, TABLE))
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(_close_streams)
    return app


def make_login_code(app: web.Application) -> str:
    """A code for `/login?code=`: good once, for ten minutes, for the admin of the first start."""
    return app[SERVICE].sessions.make_code(Scope(tenant="*", role="admin", actor="user:admin"))


async def _close_streams(app: web.Application) -> None:
    app[SERVICE].closing.set()

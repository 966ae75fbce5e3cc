"""The HTTP application: everything it answers, assembled, and the wiring round it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import web

from api import (
    acting,
    admin,
    annotating,
    approvals,
    bulk,
    dashboard,
    explaining,
    files,
    history_queries,
    launching,
    openapi,
    pages,
    reading,
    retrying,
    run_queries,
    sse,
    steps,
)
from api.following import Streaming
from api.guard import make_guard
from api.live import Live
from api.problems import add_headers, problems
from api.routes import Route, register
from api.service import SERVICE, Renew, Service
from api.sessions import Scope, Sessions
from eventstore.contract import EventLog
from eventstore.ledger import Ledger
from projections.service import ViewService
from projections.spending import Left, no_budgets
from runfold.workflows import Registry

BODY_BYTES_MAX = 1024 * 1024
ROUTES: tuple[Route, ...] = (
    *reading.ROUTES,
    *run_queries.ROUTES,
    *files.ROUTES,
    *explaining.ROUTES,
    *launching.ROUTES,
    *acting.ROUTES,
    *annotating.ROUTES,
    *bulk.ROUTES,
    *retrying.ROUTES,
    *steps.ROUTES,
    *approvals.ROUTES,
    *sse.ROUTES,
    *history_queries.ROUTES,
    *admin.ROUTES,
    *openapi.ROUTES,
    *pages.ROUTES,
    *dashboard.ROUTES,
)
"""Everything that the server answers; each is declared beside its handler, and `/api/openapi.json` shows them all."""


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
    streaming: Streaming = Streaming(),
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
        streaming=streaming,
        live=Live(streaming.look_seconds),
        registry=registry,
        left=left,
    )
    routes.update(register(app, ROUTES))
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(_close_streams)
    return app


def make_login_code(app: web.Application) -> str:
    """A code for `/login?code=`: good once, for ten minutes, for the admin of the first start."""
    return app[SERVICE].sessions.make_code(Scope(tenant="*", role="admin", actor="user:admin"))


async def _close_streams(app: web.Application) -> None:
    app[SERVICE].closing.set()
    app[SERVICE].live.wake()

"""The HTTP application: everything it answers, assembled, and the wiring round it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from aiohttp import web

from api import (
    acting,
    admin,
    annotating,
    approvals,
    budgets,
    bulk,
    dashboard,
    explaining,
    files,
    history_queries,
    launching,
    logging_in,
    metrics,
    openapi,
    output,
    probes,
    reading,
    retrying,
    run_queries,
    server_figures,
    sse,
    steps,
    tokens,
)
from api.door import behind_door
from api.following import Streaming
from api.guard import Guard
from api.live import Live
from api.nowhere import Nowhere
from api.problems import add_headers
from api.routes import Route, register
from api.service import SERVICE, ByHand, CheckOrder, Renew, Service, no_check
from api.sessions import Scope, Sessions
from eventstore.contract import EventLog
from eventstore.framing import Framing
from eventstore.heap import long_lived
from eventstore.ledger import Ledger
from eventstore.sqlite3_module import sqlite3
from projections.runs import get_fold
from projections.service import ViewService
from projections.spending import Left, no_budgets
from projections.tokens import TokenBook, digest_of
from runfold.errors import RunfoldError
from runfold.workflows import Registry

BODY_BYTES_MAX = 1024 * 1024
READ_ONCE_SECONDS_MAX = 0.5  # Before the server listens.
ADMIN: web.AppKey[Scope] = web.AppKey("admin", Scope)
ROUTES: tuple[Route, ...] = (
    *reading.ROUTES,
    *run_queries.ROUTES,
    *output.ROUTES,
    *files.ROUTES,
    *explaining.ROUTES,
    *launching.ROUTES,
    *budgets.ROUTES,
    *acting.ROUTES,
    *annotating.ROUTES,
    *bulk.ROUTES,
    *retrying.ROUTES,
    *steps.ROUTES,
    *approvals.ROUTES,
    *sse.ROUTES,
    *history_queries.ROUTES,
    *admin.ROUTES,
    *server_figures.ROUTES,
    *metrics.ROUTES,
    *tokens.ROUTES,
    *openapi.ROUTES,
    *probes.ROUTES,
    *logging_in.ROUTES,
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
    scopes: Mapping[str, Scope] | None = None,
    renew: Renew | None = None,
    streaming: Streaming = Streaming(),
    registry: Callable[[], Registry] = Registry,
    left: Left = no_budgets,
    check_order: CheckOrder = no_check,
    by_hand: ByHand | None = None,
) -> web.Application:
    """`token` is the admin of all tenants; `scopes` are by the sha256 in hex of tokens that the log does not know."""
    live = Live(streaming.look_seconds)
    book = TokenBook(log, on_revoked=live.wake)
    admin = Scope(tenant="*", role="admin", actor="user:admin", digest=digest_of(token))
    sessions = Sessions({**(scopes or {}), admin.digest: admin}, book, data=data, is_shared=log.presence is not None)
    sessions.on_closed = live.wake
    guard = Guard(sessions, allowed_hosts)
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = Service(
        log=log,
        ledger=ledger,
        views=views,
        data=data,
        sessions=sessions,
        renew=renew,
        streaming=streaming,
        live=live,
        tokens=book,
        registry=registry,
        left=left,
        check_order=check_order,
        by_hand=by_hand,
    )
    register(app, ROUTES, partial(behind_door, guard))
    app.router.register_resource(Nowhere(guard, dashboard.LOST))
    app.on_response_prepare.append(add_headers)
    app[ADMIN] = admin
    app.on_shutdown.append(_close_streams)
    app.cleanup_ctx.append(_follow_tokens)
    app.on_startup.append(_read_once)
    app.cleanup_ctx.append(_live_long)
    return app


def make_login_code(app: web.Application) -> str:
    """A code for `/login?code=`: good once, for ten minutes, for the admin of the first start."""
    return app[SERVICE].sessions.make_code(app[ADMIN])


async def _follow_tokens(app: web.Application) -> AsyncGenerator[None, None]:
    """What the log says of tokens holds from the first request on, also what other processes write later."""
    book = app[SERVICE].tokens
    await book.refresh()
    following = asyncio.create_task(book.follow(), name="tokens")
    yield
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def _read_once(app: web.Application) -> None:
    """What the first reading of a process makes ready (modules, statements, memory) keeps no client waiting."""
    log = app[SERVICE].log
    # What is wrong is told to whoever asks; and who has much to fold does that while the server answers already.
    with suppress(RunfoldError, sqlite3.Error, TimeoutError):
        async with asyncio.timeout(READ_ONCE_SECONDS_MAX):
            await log.framed(after=max(0, (await log.bounds()).last - 1), framing=Framing(), begins=True)
            await app[SERVICE].views.query(get_fold, "")


async def _live_long(_: web.Application) -> AsyncGenerator[None, None]:
    with long_lived():
        yield


async def _close_streams(app: web.Application) -> None:
    app[SERVICE].closing.set()
    app[SERVICE].live.wake()

"""Probes, logging in and out, and the small page that stands where no dashboard is built."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

from api.answers import json_response
from api.guard import SCOPE, cookie_name, session_of
from api.problems import CSP_PAGE
from api.routes import BODY, QUERY, Route
from api.service import SERVICE
from api.sessions import CODE_SECONDS, SESSION_SECONDS, Scope
from eventstore.journal import Journal, journal_of
from eventstore.proof.verified import Verified, read_verified
from projections.engine.checkpoints import read_checkpoints
from projections.engine.health import public_error, remedy_of, troubles_of
from projections.engine.underway import read_underway
from projections.engine.views import BEHIND_MAX
from runfold.envelope import time_text
from runfold.errors import Unauthorized, Unavailable
from runfold.tokens import Role

BEHIND_SECONDS_MAX = 15.0  # A new leader is there in 4 to 9 s.
_STATIC = Path(__file__).parent / "static"


class Health(msgspec.Struct, frozen=True):
    status: str


class ViewTrouble(msgspec.Struct, frozen=True):
    view: str
    state: str
    position: int
    error: str
    remedy: str


class LastProof(msgspec.Struct, frozen=True):
    """When the folder was last proved, up to which position, and how much did not match; `remedy` where something."""

    at: str
    position: int
    ok: bool
    faults: int
    remedy: str = ""


class JournalTrouble(msgspec.Struct, frozen=True):
    """Which processes keep the log's journal from being taken into the log, so that it grows; `pids` are theirs."""

    size_bytes: int
    pids: list[int]
    error: str
    remedy: str


class Rebuilding(msgspec.Struct, frozen=True):
    """How far a fold of the views is, in positions of the log."""

    done: int
    total: int


class Readiness(msgspec.Struct, frozen=True):
    """`degraded` serves, and what a listed view shows stays as it was at its position until the remedy.

    `verified` is null before the first proof. `log_behind_seconds`: since when the servers of a replicated log have not
    answered; what is read meanwhile is as it was then, and nothing can be appended. `damaged` counts the runs, and the
    log itself as one, that this server found altered when it read them and does not serve. `journal` is null while the
    log's journal is within its bound. `rebuilding` is null while no views are folded anew, `folding` while they are not
    far behind the log: lists and sums are old meanwhile, and say so; commands and single runs are as ever.
    """

    status: str
    views: list[ViewTrouble]
    verified: LastProof | None = None
    log_behind_seconds: float = 0.0
    damaged: int = 0
    journal: JournalTrouble | None = None
    rebuilding: Rebuilding | None = None
    folding: Rebuilding | None = None


USED_LINK = "link=used"


class LoginQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`next` is the page of the dashboard to go to; an address elsewhere is refused."""

    code: str | None = None
    next: Annotated[str, msgspec.Meta(max_length=200, pattern=r"^/([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$")] = "/"


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """For whom this browser or token acts, and as what. With `all_tenants` it may choose another tenant."""

    tenant: str
    role: Role
    actor: str
    all_tenants: bool
    expires_at: str | None


class SessionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


async def get_livez(_request: web.Request) -> web.Response:
    return json_response(Health("alive"))


async def get_readyz(request: web.Request) -> web.Response:
    """Ready is whoever can read the log and is not about to close."""
    service = request.app[SERVICE]
    if service.closing.is_set():
        raise Unavailable("the server is closing", hint="try again in a second")
    head = (await service.log.bounds()).last
    checkpoints, freshness = await service.views.query(read_checkpoints)
    underway = await asyncio.to_thread(read_underway, service.data)
    views = [
        ViewTrouble(trouble.view, trouble.state, trouble.position, public_error(trouble), remedy_of(trouble, underway))
        for trouble in troubles_of(checkpoints)
    ]
    proof = _last_proof(await asyncio.to_thread(read_verified, service.data))
    behind_seconds, damaged = round(service.log.behind_seconds, 1), service.log.damaged
    journal = _journal_trouble(await asyncio.to_thread(journal_of, service.data))
    is_proved = (proof is None or proof.ok) and not damaged
    is_followed = not views and freshness.behind <= BEHIND_MAX
    is_sound = is_followed and is_proved and behind_seconds <= BEHIND_SECONDS_MAX and journal is None
    status = "ready" if is_sound else "degraded"
    rebuilding = None if underway is None else Rebuilding(underway.done, underway.total)
    # The head was read before, and the views may be further by now.
    folding = None if freshness.behind <= BEHIND_MAX else Rebuilding(max(0, head - freshness.behind), head)
    return json_response(Readiness(status, views, proof, behind_seconds, damaged, journal, rebuilding, folding))


def _journal_trouble(journal: Journal) -> JournalTrouble | None:
    if not journal.held_by:
        return None
    pids = [holder.pid for holder in journal.held_by]
    return JournalTrouble(journal.size_bytes, pids, journal.sentence, journal.remedy)


def _last_proof(verified: Verified | None) -> LastProof | None:
    """Without what was found: anyone may ask."""
    if verified is None:
        return None
    remedy = "" if verified.ok else "`runfold doctor` on the server's machine says what was found"
    return LastProof(verified.finished_at, verified.head, verified.ok, verified.faults_found, remedy)


async def get_page(_request: web.Request) -> web.Response:
    return _static("index.html", "text/html")


async def get_script(_request: web.Request) -> web.Response:
    return _static("app.js", "text/javascript")


async def get_login(request: web.Request) -> web.Response:
    """A code is good once; without one the page itself asks for a token."""
    query: LoginQuery = request[QUERY]
    response = web.Response(status=303, headers={"Location": query.next})
    # Whoever only asks for the head, as previews of links do, does not use the code up.
    if query.code is None or request.method == "HEAD":
        return response
    sessions = request.app[SERVICE].sessions
    scope = await sessions.use_code(query.code)
    if scope is not None:
        await _give_cookie(request, response, scope)
    elif "text/html" not in request.headers.get("Accept", ""):
        raise Unauthorized("the login link was used before, or is too old", hint="`runfold open` prints a new one")
    elif sessions.scope_of_session(session_of(request)) is None:
        # A person is told so by the page that asks for a token; a browser that is logged in just goes on.
        response.headers["Location"] = f"{query.next}?{USED_LINK}"
    return response


class CodeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`path` logs a browser in as whoever asked, once, within the time; `&next=/runs/<id>` leads to a page."""

    path: str
    expires_in_seconds: int


async def post_code(request: web.Request) -> web.Response:
    code = await request.app[SERVICE].sessions.make_shared_code(request[SCOPE])
    return json_response(CodeAnswer(path=f"/login?code={code}", expires_in_seconds=CODE_SECONDS), status=201)


async def get_session(request: web.Request) -> web.Response:
    scope = request[SCOPE]
    return json_response(
        SessionAnswer(
            tenant=scope.tenant,
            role=scope.role,
            actor=scope.actor,
            all_tenants=scope.of_all,
            expires_at=None if scope.expires_at_us is None else time_text(scope.expires_at_us),
        )
    )


async def post_session(request: web.Request) -> web.Response:
    body: SessionBody = request[BODY]
    scope = request.app[SERVICE].sessions.scope_of_token(body.token)
    if scope is None:
        raise Unauthorized("the token is not known", hint="`data/token` holds the first one")
    response = web.Response(status=204)
    await _give_cookie(request, response, scope)
    return response


async def delete_session(request: web.Request) -> web.Response:
    await request.app[SERVICE].sessions.close_session(session_of(request))
    response = web.Response(status=204)
    response.del_cookie(cookie_name(request), path="/")
    return response


async def _give_cookie(request: web.Request, response: web.Response, scope: Scope) -> None:
    response.set_cookie(
        cookie_name(request),
        await request.app[SERVICE].sessions.open_session(scope),
        max_age=SESSION_SECONDS,
        path="/",
        httponly=True,
        samesite="Strict",
        # Believed of anybody: who says so falsely only gets a cookie that he cannot send.
        secure=request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https",
    )


def _static(name: str, media_type: str) -> web.Response:
    return web.Response(
        text=(_STATIC / name).read_text("utf-8"), content_type=media_type, headers={"Content-Security-Policy": CSP_PAGE}
    )


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/livez",
        operation="livez",
        handler=get_livez,
        summary="The process is alive",
        needs="open",
        answer=Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        operation="readyz",
        handler=get_readyz,
        summary="The log can be read; views that stay behind are listed with their remedy",
        needs="open",
        answer=Readiness,
    ),
    Route(
        method="GET",
        path="/login",
        operation="login",
        handler=get_login,
        summary="Log a browser in with a one-time code",
        needs="open",
        query=LoginQuery,
        status=303,
        linked=True,
    ),
    Route(
        method="GET",
        path="/session",
        operation="get_session",
        handler=get_session,
        summary="Whose session or token this is, and what it may do",
        needs="viewer",
        answer=SessionAnswer,
    ),
    Route(
        method="POST",
        path="/session/code",
        operation="make_login_code",
        handler=post_code,
        summary="A link that logs a browser in, once",
        needs="viewer",
        answer=CodeAnswer,
        status=201,
    ),
    Route(
        method="POST",
        path="/session",
        operation="open_session",
        handler=post_session,
        summary="Log a browser in with a token",
        needs="open",
        body=SessionBody,
        status=204,
    ),
    Route(
        method="DELETE",
        path="/session",
        operation="close_session",
        handler=delete_session,
        summary="Log the browser out",
        needs="open",
        status=204,
    ),
    Route(
        method="GET",
        path="/app.js",
        operation="page_script",
        handler=get_script,
        summary="The script of the page",
        needs="open",
        media_type="text/javascript",
        described=False,
    ),
)

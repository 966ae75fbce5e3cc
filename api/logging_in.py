"""Logging a browser in, by a link that is good once or by a token, and out again."""

from typing import Annotated

import msgspec
from aiohttp import web

from api.answers import json_response
from api.guard import SCOPE, cookie_name, session_of
from api.routes import BODY, QUERY, Route
from api.service import SERVICE
from api.sessions import CODE_SECONDS, SESSION_SECONDS, Scope
from runfold.envelope import time_text
from runfold.errors import Unauthorized
from runfold.tokens import Role

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
    scope = await request.app[SERVICE].sessions.scope_of_given(body.token)
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


ROUTES: tuple[Route, ...] = (
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
)

"""Who may pass: Host, Origin, token, JSON, tenant and role are asked of every method and route, in this order."""

import re
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from api.routes import Route
from api.sessions import Scope, Sessions
from runfold.errors import BadRequest, Forbidden, Misdirected, Unauthorized, UnsupportedMedia

_COOKIE = "runfold_session"
TENANT_HEADER = "Runfold-Tenant"
NEEDED = {"root": "it needs an admin of all tenants"}
SCOPE: web.RequestKey[Scope] = web.RequestKey("scope", Scope)
SESSIONS: web.RequestKey[Sessions] = web.RequestKey("sessions", Sessions)
_DIGITS = frozenset("0123456789")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


class Guard:
    """What is asked of every request before anything else; a route that is not in the table (None) is never open."""

    def __init__(self, sessions: Sessions, allowed_hosts: frozenset[str]) -> None:
        self._sessions = sessions
        self._hosts = frozenset(host.lower() for host in allowed_hosts)

    async def let_in(self, request: web.Request, route: Route | None) -> None:
        """Raises Misdirected, Forbidden, Unauthorized, UnsupportedMedia, BadRequest, Unavailable."""
        check_host(request, self._hosts)
        check_origin(request, linked=route is not None and route.linked)
        needs = None if route is None else route.needs
        scope: Scope | None = None
        if needs != "open":
            try:
                scope = scope_of(request, self._sessions)
            except Unauthorized:
                # Another server may have let it in a moment ago.
                if not _has_secret(request) or not await self._sessions.look_again():
                    raise
                scope = scope_of(request, self._sessions)
            request[SCOPE] = scope
            request[SESSIONS] = self._sessions
        is_streamed = route is not None and route.streamed
        if request.body_exists and not is_streamed and not _is_json(request):
            raise UnsupportedMedia(
                f"`{request.content_type}` is not taken here", hint="send JSON with `Content-Type: application/json`"
            )
        if scope is not None and needs is not None and not scope.may(needs):
            raise Forbidden(
                f"role `{scope.role}` may not {request.method} here",
                hint=NEEDED.get(needs, f"it needs role `{needs}`"),
            )


def _is_json(request: web.Request) -> bool:
    return request.headers.get("Content-Type") == "application/json" or request.content_type == "application/json"


def check_host(request: web.Request, hosts: frozenset[str]) -> None:
    """An unknown Host means DNS rebinding or a wrong proxy; answering it would hand the page's origin our data."""
    given = request.headers.getall("Host", [])
    if len(given) != 1 or not _is_allowed(given[0], hosts):
        raise Misdirected("this server does not answer for that Host", hint="use the address that `runfold up` printed")


@lru_cache(maxsize=64)
def _is_allowed(given: str, hosts: frozenset[str]) -> bool:
    host = given.lower()
    before, _, port = host.rpartition(":")
    name = before if before and set(port) <= _DIGITS else host
    return bool(host) and (host in hosts or name in hosts)


def check_origin(request: web.Request, *, linked: bool) -> None:
    """Refuse what another site's page sends; `linked` pages may be followed to from anywhere."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        if "Origin" not in request.headers:
            return  # No browser asks.
        site = "none"
    is_link = linked and request.method == "GET" and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
    if site not in ("none", "same-origin") and not is_link:
        raise Forbidden("a page of another site may not ask this server", hint="open the dashboard itself")
    for origin in request.headers.getall("Origin", []):
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or parts.netloc.lower() != request.headers.get("Host", "").lower():
            raise Forbidden("that Origin may not ask this server", hint="open the dashboard itself")


def cookie_name(request: web.Request) -> str:
    """Browsers share the cookies of a host among its ports, so the servers of one machine each have their own."""
    return f"{_COOKIE}_{request.url.port}"


def session_of(request: web.Request) -> str:
    return request.cookies.get(cookie_name(request), "")


def scope_of(request: web.Request, sessions: Sessions) -> Scope:
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        kind, _, token = authorization.partition(" ")
        scope = sessions.scope_of_token(token.strip()) if kind.lower() == "bearer" else None
    else:
        scope = sessions.scope_of_session(session_of(request))
    if scope is None:
        raise Unauthorized("a valid token is needed", hint="send `Authorization: Bearer <token>`; see `data/token`")
    return acting_in(scope, request.headers.get(TENANT_HEADER))


def _has_secret(request: web.Request) -> bool:
    return "Authorization" in request.headers or bool(session_of(request))


def is_granted(request: web.Request) -> bool:
    """Whether what let the request in would let it in now: a stream outlives a token, a session and a log-out."""
    try:
        return scope_of(request, request[SESSIONS]).tenant == request[SCOPE].tenant
    except Unauthorized:
        return False


def acting_in(scope: Scope, tenant: str | None) -> Scope:
    """The scope narrowed to one tenant: an admin of `*` chooses one, anybody else has exactly his own."""
    if tenant is not None and not _TENANT.fullmatch(tenant):
        raise BadRequest(f"`{TENANT_HEADER}` is not a tenant's name", hint="letters, digits, `-`, `_` and `.`")
    if scope.tenant == "*":
        return msgspec.structs.replace(scope, tenant=tenant or "default", of_all=True)
    if tenant is not None and tenant != scope.tenant:
        raise Forbidden("this token is of another tenant", hint=f"leave `{TENANT_HEADER}` away")
    return scope

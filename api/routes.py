"""What a route is: its handler, what it takes and answers, and who may call it; the table of them becomes OpenAPI."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from aiohttp import web

Needs = Literal["open", "viewer", "operator", "admin", "root"]
"""`root` is an admin of all tenants."""
RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TABLE: web.AppKey[tuple["Route", ...]] = web.AppKey("table", tuple)
BODY: web.RequestKey[Any] = web.RequestKey("body", object)
QUERY: web.RequestKey[Any] = web.RequestKey("query", object)


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


@dataclass(frozen=True, kw_only=True)
class Route:
    """`linked`: a browser may follow a link of another site to it. `media_type` is of the answer.

    What is `streamed` comes as bytes of any kind, which the handler reads itself. What is not `described` is no part
    of the API: the dashboard's own files. What `is_taken_away` answers as a file too, in any of its formats.
    What is `frequent` is looked for before all others.
    """

    method: str
    path: str
    operation: str
    handler: RequestHandler
    summary: str
    needs: Needs
    body: type[Any] | None = None
    query: type[Any] = NoQuery
    answer: Any = None
    status: int = 200
    media_type: str = "application/json"
    linked: bool = False
    described: bool = True
    streamed: bool = False
    is_taken_away: bool = False
    frequent: bool = False


def register(app: web.Application, routes: tuple[Route, ...], behind_door: Callable[[Route], RequestHandler]) -> None:
    """Each route under its method; what can be asked for with GET can be asked for with HEAD."""
    app[TABLE] = routes
    for route in sorted(routes, key=lambda route: not route.frequent):
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, route.path, behind_door(route))

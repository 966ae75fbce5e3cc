"""One door for every request: who may come in, what it says, and an answer as a problem where something is wrong."""

from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from api.guard import Guard
from api.problems import problem_of
from api.requests import decode_body, decode_query
from api.routes import BODY, QUERY, NoQuery, Route


def make_door(guard: Guard, routes: Mapping[web.AbstractRoute, Route], *, lost: Route) -> Middleware:
    """`routes` may be filled later; what is not in it finds nothing behind the guard, but a person `lost`."""

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        # All in one: each function that waits for another costs every request, and so does each middleware.
        try:
            route = routes.get(request.match_info.route)
            if route is None and asks_for_a_page(request):
                route, handler = lost, lost.handler
            await guard.let_in(request, route)
            if route is not None:
                content = await request.read() if request.body_exists and not route.streamed else b""
                if route.body is not None:
                    request[BODY] = decode_body(content or b"{}", route.body)
                if route.query is not NoQuery or "?" in request.raw_path:
                    request[QUERY] = decode_query(request, route.query)
            return await handler(request)
        except Exception as error:
            return problem_of(request, error)

    return door


def asks_for_a_page(request: web.Request) -> bool:
    """Whether a person's browser opens an address at which nothing is."""
    is_lost = isinstance(request.match_info.http_exception, web.HTTPNotFound)
    return is_lost and request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")

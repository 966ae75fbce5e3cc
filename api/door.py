"""One door for every request: who may come in, what it says, and an answer as a problem where something is wrong."""

from aiohttp import web

from api.guard import Guard
from api.problems import problem_of
from api.requests import decode_body, decode_query
from api.routes import BODY, QUERY, NoQuery, RequestHandler, Route


def behind_door(guard: Guard, route: Route) -> RequestHandler:
    """The route's handler, and all that is asked before it."""
    handler, body, query = route.handler, route.body, route.query

    async def answer(request: web.Request) -> web.StreamResponse:
        # All in one, and no middleware: each function that waits for another costs every request.
        try:
            await guard.let_in(request, route)
            content = await request.read() if request.body_exists and not route.streamed else b""
            if body is not None:
                request[BODY] = decode_body(content or b"{}", body)
            if query is not NoQuery or "?" in request.raw_path:
                request[QUERY] = decode_query(request, query)
            return await handler(request)
        except Exception as error:
            return problem_of(request, error)

    return answer

"""What is asked for where nothing is: the guard stands before it too, and then it is a page or a problem."""

from aiohttp import web

from api.door import behind_door
from api.guard import Guard
from api.problems import problem_of
from api.routes import RequestHandler, Route


class Nowhere(web.PlainResource):
    """Takes whatever no resource takes that is registered before it; it is in no list of routes.

    It is no middleware, which every request would pay for. Only what has no path at all, not even `/`, does not come
    here: the router itself answers 404, and `api.problems.add_headers` makes a problem of that.
    """

    def __init__(self, guard: Guard, lost: Route) -> None:
        """A person's browser is shown `lost`."""
        super().__init__("/")
        self._taking = web.ResourceRoute("*", _behind_no_door(guard, lost), self)

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        return web.UrlMappingMatchInfo({}, self._taking), set()


def _behind_no_door(guard: Guard, lost: Route) -> RequestHandler:
    show_lost = behind_door(guard, lost)

    async def answer(request: web.Request) -> web.StreamResponse:
        allowed = await _methods_at(request)
        if not allowed and _asks_for_a_page(request):
            return await show_lost(request)
        try:
            await guard.let_in(request, None)
            raise web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound
        except Exception as error:
            return problem_of(request, error)

    return answer


async def _methods_at(request: web.Request) -> set[str]:
    """Those that the address takes."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if not isinstance(resource, Nowhere):
            allowed |= (await resource.resolve(request))[1]
    return allowed


def _asks_for_a_page(request: web.Request) -> bool:
    """Whether a person's browser opened the address."""
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")

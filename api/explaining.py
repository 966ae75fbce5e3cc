"""What explains a run: its Markdown report, the causes of its status, and what another run did otherwise."""

from aiohttp import web

from api.answers import json_response
from api.guard import SCOPE
from api.routes import Route
from api.service import SERVICE, Service, known_run
from runfold.difference import Difference, Side, difference
from runfold.markdown import Why, explain, markdown_report


async def get_report(request: web.Request) -> web.Response:
    run = await known_run(request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant)
    return web.Response(text=markdown_report(run), content_type="text/markdown")


async def get_why(request: web.Request) -> web.Response:
    run = await known_run(request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant)
    return json_response(explain(run))


async def get_difference(request: web.Request) -> web.Response:
    service, tenant = request.app[SERVICE], request[SCOPE].tenant
    a, b = [await _side(service, request.match_info[name], tenant) for name in ("run_id", "other_id")]
    return json_response(difference(a, b))


async def _side(service: Service, run_id: str, tenant: str) -> Side:
    await known_run(service, run_id, tenant)
    side = Side(run_id)
    async for page in service.log.read(stream=run_id):
        side.add(page.events)
    return side


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/runs/{run_id}/report",
        operation="get_report",
        handler=get_report,
        summary="The run as a Markdown report",
        needs="viewer",
        media_type="text/markdown",
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/why",
        operation="get_why",
        handler=get_why,
        summary="The causes of the run's present status, the nearest first",
        needs="viewer",
        answer=Why,
    ),
    Route(
        method="GET",
        path="/api/runs/{run_id}/diff/{other_id}",
        operation="get_difference",
        handler=get_difference,
        summary="Where two runs part, and what each then made, took and cost",
        needs="viewer",
        answer=Difference,
    ),
)

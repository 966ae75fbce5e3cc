"""What explains a run: its Markdown report, the causes of its status, and what another run did otherwise."""

import msgspec
from aiohttp import web

from api.answers import json_response
from api.guard import SCOPE
from api.routes import QUERY, Route
from api.service import SERVICE, Service, kept_run, known_run
from projections.past import At, not_there_yet, parse_at
from runfold.difference import Difference, Side, difference
from runfold.markdown import Why, explain, markdown_report


class DiffQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The moments at which the first and the second run are looked at, as `at` of a run; now where left out."""

    at: str | None = None
    other_at: str | None = None


async def get_report(request: web.Request) -> web.Response:
    run = await kept_run(request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant)
    return web.Response(text=markdown_report(run), content_type="text/markdown")


async def get_why(request: web.Request) -> web.Response:
    run = await kept_run(request.app[SERVICE], request.match_info["run_id"], request[SCOPE].tenant)
    return json_response(explain(run))


async def get_difference(request: web.Request) -> web.Response:
    service, tenant, query = request.app[SERVICE], request[SCOPE].tenant, request[QUERY]
    a = await _side(service, request.match_info["run_id"], query.at, tenant)
    b = await _side(service, request.match_info["other_id"], query.other_at, tenant)
    return json_response(difference(a, b))


async def _side(service: Service, run_id: str, moment: str | None, tenant: str) -> Side:
    await known_run(service, run_id, tenant)
    at = At() if moment is None else parse_at(moment)
    side = Side(run_id, at.holds)
    async for page in service.log.read(stream=run_id, upto=at.position):
        side.add(page.events)
    if side.run.version == 0:
        raise not_there_yet(run_id)
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
        summary="Where two runs, or two moments of one, part, and what each then made, took and cost",
        needs="viewer",
        query=DiffQuery,
        answer=Difference,
    ),
)

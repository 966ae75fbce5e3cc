"""What is left of the budgets of `runfold.toml`."""

import time

from aiohttp import web

from api.answers import view_response
from api.asking import ViewQuery, query_views
from api.guard import SCOPE
from api.routes import QUERY, Route
from api.service import SERVICE
from projections.spending import BudgetList, list_budgets


async def get_budgets(request: web.Request) -> web.Response:
    """Those that the caller's tenant draws on; a day's is everybody's."""
    query: ViewQuery = request[QUERY]
    service, now_us = request.app[SERVICE], time.time_ns() // 1_000
    rules = service.registry().budgets
    found, freshness = await query_views(
        service, query.min_position, list_budgets, rules, tenant=request[SCOPE].tenant, now_us=now_us
    )
    return view_response(found, freshness)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/budgets",
        operation="list_budgets",
        handler=get_budgets,
        summary="What is spent and left of each budget",
        needs="viewer",
        query=ViewQuery,
        answer=BudgetList,
    ),
)

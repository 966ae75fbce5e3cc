"""What is left of the budgets of `runfold.toml`, for a command that starts something here without a server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.workflow_file import watched_registry
from runfold.commands import Budget
from runfold.snapshot import Snapshot

if TYPE_CHECKING:
    from projections.spending import Left


@asynccontextmanager
async def spending_here(data: Path, folder: Path | None = None) -> AsyncGenerator["Left", None]:
    """To ask while a run is driven here; where nobody has set a budget, not even the views are opened."""
    from projections.spending import Spending, no_budgets

    registry = watched_registry(folder)
    if not registry().budgets:
        yield no_budgets
        return
    from projections.service import ViewService

    views = await ViewService.open(data)
    try:
        yield Spending(views, lambda: registry().budgets).left
    finally:
        await views.close()


def budgets_now(data: Path, run: Snapshot) -> tuple[Budget, ...]:
    """The same, asked once."""
    rules = watched_registry()().budgets
    if not rules:
        return ()
    import time

    from projections.engine.views import Views
    from projections.spending import budgets_of
    from projections.usage import VIEW

    views = Views.open(data, views=(VIEW,))
    try:
        views.refresh()
        now_us = time.time_ns() // 1000
        return budgets_of(views.connection, rules, tenant=run.tenant, workflow=run.workflow, now_us=now_us)
    finally:
        views.close()

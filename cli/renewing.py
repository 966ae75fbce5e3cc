"""Views from which something was taken on another machine are made anew, so that their file holds nothing of it."""

import asyncio
from pathlib import Path

import structlog

from cli.beside import run_beside
from eventstore.sqlite3_module import sqlite3
from projections.engine.remains import holds_remains
from projections.service import ViewService
from runfold.errors import RunfoldError

LOOK_SECONDS = 5.0
AGAIN_SECONDS = 60.0  # What could not be made anew has a reason that does not go at once.


async def keep_views_clean(views: ViewService, data: Path, *, look_seconds: float = LOOK_SECONDS) -> None:
    """Until cancelled; in a process of its own, as `runfold redact` does it on its own machine."""
    while True:
        try:
            if await views.query_lately(holds_remains):
                await _rebuild(data)
                if await views.query_lately(holds_remains):
                    await asyncio.sleep(AGAIN_SECONDS)
        except (RunfoldError, sqlite3.Error) as error:
            structlog.get_logger().warning("the views could not be looked at", error=str(error))
        await asyncio.sleep(look_seconds)


async def _rebuild(data: Path) -> None:
    log = structlog.get_logger()
    if await run_beside(data, "rebuild", "--anew", "--while-asked", "--json"):
        hint = "`runfold rebuild --anew` says why"
        log.warning("what was redacted elsewhere may be in free pages of the views", hint=hint)
    else:
        log.info("the views were made anew, as something was redacted elsewhere")

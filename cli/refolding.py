"""Views that another version of runfold has made, folded anew beside the server that would serve them stale.

In a process of its own: a busy thread in the process that writes takes most of its appends.
"""

import asyncio
from pathlib import Path

import structlog

from cli.beside import run_beside
from eventstore.sqlite3_module import sqlite3
from projections.engine.checkpoints import read_checkpoints
from projections.engine.health import Trouble, troubles_of
from projections.service import ViewService
from runfold.errors import RunfoldError

AGAIN_SECONDS = 60.0  # Who was refused tries again after this, then after twice as long, and so on.
AGAIN_SECONDS_MAX = 3600.0


async def fold_anew_after_upgrade(views: ViewService, data: Path) -> None:
    """Rebuild what another version has made, until nothing of it is left."""
    wait_seconds = AGAIN_SECONDS
    while True:
        try:
            troubles = await _of_another_version(views)
        except (RunfoldError, sqlite3.Error) as error:
            structlog.get_logger().warning("the views could not be looked at", error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        if not troubles:
            return
        names = [trouble.view for trouble in troubles]
        structlog.get_logger().info("views of another version are folded anew", views=names)
        only = [part for name in names for part in ("--only", name)]
        if await run_beside(data, "rebuild", "--while-asked", "--json", *only):
            structlog.get_logger().warning("the views could not be folded anew", hint="`runfold rebuild` says why")
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, AGAIN_SECONDS_MAX)
        else:
            structlog.get_logger().info("the views were folded anew", views=names)


async def _of_another_version(views: ViewService) -> list[Trouble]:
    checkpoints, _ = await views.query(read_checkpoints)
    return [trouble for trouble in troubles_of(checkpoints) if trouble.state == "another_version"]

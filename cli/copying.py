"""The second copy beside the work: what the log got goes to the store that the machines share, until told to stop."""

import asyncio
import time

import structlog

from cli.settings import Settings
from eventstore.keeping.copy_keeping import Keeper
from eventstore.mirrored import mirrored_log
from eventstore.objects.shared_outputs import share_new
from eventstore.sqlite3_module import sqlite3
from runfold.errors import RunfoldError
from runner import machine

STEP_SECONDS = 15.0  # What a lost log may lack of its second copy, where the store keeps up.


def store_url(settings: Settings) -> str:
    """The store of this folder; empty where none was named."""
    mirrored = mirrored_log(settings.data)
    return settings.blobs or (mirrored.blobs if mirrored is not None else "")


async def keep_copy(settings: Settings) -> None:
    """Keep the second copy of the folder's log where a store was named, until cancelled."""
    url = store_url(settings)
    if not url:
        return
    keeper = Keeper(settings.data, url, writer=f"{machine.host()}:{settings.data.absolute()}")
    while True:
        began = time.monotonic()
        try:
            if mirrored_log(settings.data) is not None:
                # What a store that was away could not take at the end of a turn.
                await asyncio.to_thread(share_new, settings.data)
            segment = await asyncio.to_thread(keeper.step)
        except (RunfoldError, OSError, sqlite3.Error) as error:
            segment = None
            hint = error.hint if isinstance(error, RunfoldError) else "`runfold doctor` says what is wrong here"
            structlog.get_logger().error("the second copy is not kept", error=str(error), hint=hint)
        # A long log is copied part by part, with as much rest as work, so that it takes half of a thread at most.
        rest = time.monotonic() - began if segment is not None else STEP_SECONDS
        await asyncio.sleep(min(rest, STEP_SECONDS))

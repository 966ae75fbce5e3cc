"""How a driver hears of its run: by a reader of its own, or stirred by the one reader of a worker with many of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from eventstore.contract import EventLog, Page


async def pages_of(
    log: EventLog, run_id: str, position: int, stirred: asyncio.Event | None
) -> AsyncGenerator[Page, None]:
    """The run's events after a position, for ever; with `stirred` looked for only when that is set."""
    if stirred is None:
        async with aclosing(log.tail(after=position, stream=run_id)) as pages:
            async for page in pages:
                yield page
        return
    while True:
        # Before the look: what comes during it is looked for again.
        stirred.clear()
        async with aclosing(log.read(after=position, stream=run_id)) as pages:
            async for page in pages:
                position = page.scanned_to
                yield page
        await stirred.wait()

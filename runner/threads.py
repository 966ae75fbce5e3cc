"""A step in a thread that is over before who waited for it goes on, also where he is cancelled."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but who is cancelled may close what the function used: the thread has ended."""
    # No task, which the end of the loop cancels while its thread goes on.
    hop = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(hop)
    except asyncio.CancelledError:
        # Its thread goes on, and two of them in one connection end the process.
        while not hop.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([hop])
        hop.exception()
        raise

"""How views are asked: from which position on, how much at once, and how fresh the answer is."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated, Concatenate, ParamSpec, TypeVar

import msgspec

from api.service import Service
from eventstore.contract import EventLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.projector import Freshness
from runfold.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
LIMIT_MAX = 200
Limit = msgspec.Meta(ge=1, le=LIMIT_MAX)
Position = msgspec.Meta(ge=0, le=2**53)
MIN_POSITION_SECONDS = 2.0


class ViewQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`min_position`: what an earlier answer said; this one is no older, or says that it is `stale`."""

    min_position: Annotated[int, Position] = 0


async def query_views(
    service: Service,
    min_position: int,
    fn: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[T, Freshness]:
    """Ask the views, from `min_position` on; where the log does not get there in time the answer is stale.

    What views do not have that are far behind may be there all the same. Raises Unavailable.
    """
    found, freshness = await ask_views(service, min_position, fn, *args, **kwargs)
    if found is None:
        refuse_behind(freshness)
    return found, freshness


async def ask_views(
    service: Service,
    min_position: int,
    fn: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[T, Freshness]:
    """As `query_views`; the answer may be None because the views are behind."""
    if min_position and min_position > (last := (await service.log.bounds()).last):
        await _wait_for(service.log, min_position, after=last)
    found, freshness = await service.views.query(fn, *args, **kwargs)
    if freshness.position < min_position:
        freshness = msgspec.structs.replace(freshness, stale=True)
    return found, freshness


def refuse_behind(freshness: Freshness) -> None:
    """Raises Unavailable where the views have much to fold: what they do not have is not known to be missing."""
    if freshness.behind:
        raise Unavailable(
            f"the views have still to fold {freshness.behind:,} positions of the log, and do not have it yet",
            hint="try again in some seconds; `/readyz` says how far they are",
        )


async def _wait_for(log: EventLog, position: int, *, after: int) -> None:
    """`after` is where the log was when it was looked at: what came since then must not be slept through."""
    try:
        async with (
            asyncio.timeout(MIN_POSITION_SECONDS),
            aclosing(log.tail(after=after)) as pages,
        ):
            async for page in pages:
                if page.scanned_to >= position:
                    return
    except TimeoutError:
        return

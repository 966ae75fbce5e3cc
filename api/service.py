"""What the handlers share: the log, the ledger, the views, and the keys under which an application keeps them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web

from api.following import Streaming
from api.frames import Frames
from api.live import Live
from api.sessions import Scope, Sessions
from eventstore.contract import EventLog
from eventstore.ledger import Ledger
from projections.runs import get_fold
from projections.service import ViewService
from projections.spending import Left, no_budgets
from projections.tokens import TokenBook
from runfold.commands import Budget
from runfold.envelope import Recorded
from runfold.errors import Forbidden, NotFound, Trimmed
from runfold.events import Driver, RunQueued
from runfold.state import Run, new_run
from runfold.workflows import Registry


class ByHand(Protocol):
    """Who goes on with what was started by hand, as the machine that the server runs on knows it."""

    async def driver_of(self, run: Run, *, is_admin: bool) -> Driver | None:
        """Who drives the run that is to go on; None is: whoever did. Raises Forbidden with what to type."""
        ...

    def check_retry(self, run: Run, order: RunQueued, *, is_admin: bool) -> None:
        """Raises Forbidden, with what to type, where the order is not repeated here."""
        ...


Renew = Callable[[Run], Awaitable[None]]
CheckOrder = Callable[[RunQueued, Sequence[Budget]], None]
"""Refuses, with NotAllowed, an order that whoever drives runs here could not carry out under these budgets."""


def no_check(order: RunQueued, budgets: Sequence[Budget]) -> None:
    """Nobody drives runs here."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The caller of `make_app` owns log, ledger and views, and closes them after the application."""

    log: EventLog
    ledger: Ledger
    views: ViewService
    data: Path
    sessions: Sessions
    tokens: TokenBook
    renew: Renew | None = None
    streaming: Streaming = field(default_factory=Streaming)
    frames: Frames = field(default_factory=Frames)
    live: Live
    registry: Callable[[], Registry] = Registry
    left: Left = no_budgets
    check_order: CheckOrder = no_check
    by_hand: ByHand | None = None
    """None: nobody drives runs here."""
    started_us: int = field(default_factory=lambda: time.time_ns() // 1_000)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server shuts down, so that streams end at once."""


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


async def check_order(service: Service, run_id: str, order: RunQueued, tenant: str) -> None:
    """What cannot be carried out is refused to who asks for it, and not to the worker later. Raises NotAllowed."""
    whose = msgspec.structs.replace(new_run(run_id, tenant), workflow=order.workflow)
    service.check_order(order, await service.left(whose))


async def next_driver(service: Service, scope: Scope, run: Run) -> Driver | None:
    """Who drives the run once it goes on at this caller's word. Raises Forbidden with what to type."""
    if service.by_hand is None:
        return None
    return await service.by_hand.driver_of(run, is_admin=scope.role == "admin")


def check_by_hand(service: Service, scope: Scope, run: Run, order: RunQueued) -> None:
    """Raises Forbidden, with what to type, where the run was started by hand and is not repeated here."""
    if service.by_hand is not None:
        service.by_hand.check_retry(run, order, is_admin=scope.role == "admin")
    elif run.is_driven and order.workflow is None:
        raise Forbidden(
            f"run `{run.run_id}` was started by hand, and nobody drives runs here",
            hint=f"type `runfold retry {run.run_id}` where it was started",
            run_id=run.run_id,
        )


async def known_run(service: Service, run_id: str, tenant: str) -> Run:
    """The run as it is now. A run of another tenant answers exactly like one that does not exist."""
    if run_id.startswith("r_"):
        try:
            return await service.ledger.state(run_id, tenant=tenant)
        except NotFound:
            pass
    raise unknown_run(run_id)


async def kept_run(service: Service, run_id: str, tenant: str) -> Run:
    """As `known_run`; a run that was trimmed is what its summary tells. Raises Trimmed where the views have none."""
    try:
        return await known_run(service, run_id, tenant)
    except Trimmed:
        run, _ = await service.views.query(get_fold, run_id)
        if run is None or run.tenant != tenant:
            raise
        return run


async def check_kept(service: Service, run_id: str, tenant: str) -> None:
    """Raises as `kept_run` does, and folds nothing where the run's last event tells enough."""
    try:
        await last_of(service, run_id, tenant)
    except Trimmed:
        await kept_run(service, run_id, tenant)


async def last_of(service: Service, run_id: str, tenant: str) -> Recorded:
    """The last event of a run that the caller may see: for who only has to know that it is there, one row says so.

    Raises as `known_run` does.
    """
    last = await service.log.last(run_id) if run_id.startswith("r_") else None
    if last is None:
        # Only the whole way tells what is gone from what never was.
        await known_run(service, run_id, tenant)
    if last is None or last.tenant != tenant:
        raise unknown_run(run_id)
    return last


async def shown_run(service: Service, run_id: str, tenant: str) -> Run:
    """As `known_run`, from the views where they have all of it: to fold a run of 100,000 events takes a second."""
    if not service.ledger.holds(run_id):
        run, freshness = await service.views.query(get_fold, run_id)
        if run is not None and not freshness.stale and run.tenant == tenant:
            return run
    return await known_run(service, run_id, tenant)


def unknown_run(run_id: str) -> NotFound:
    return NotFound(f"run `{run_id}` is not known", hint="`GET /api/runs` lists the known ones", run_id=run_id)

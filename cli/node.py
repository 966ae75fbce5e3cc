"""A process of a data folder: its log and views, the deadlines it keeps, the runs it drives; with HTTP or without."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from cli.actor import local_actor
from cli.copying import keep_copy, store_url
from cli.journal_watch import watch_journal
from cli.proving import prove_now_and_then
from cli.refolding import fold_anew_after_upgrade
from cli.renewing import keep_views_clean
from cli.settings import Settings
from cli.snapshotting import keep_snapshots
from cli.workflow_file import watched_registry
from eventstore.contract import EventLog, Presence
from eventstore.ledger import Ledger
from eventstore.mirrored import mirrored_log
from eventstore.objects.object_store import open_store
from eventstore.opening import open_log
from eventstore.sqlite3_module import sqlite3
from eventstore.state_file import kept_going, mend_some
from eventstore.telling import told_behind
from projections.engine.seeding import bring_views
from projections.runs import active_runs
from projections.service import ViewService
from projections.spending import Spending
from runfold.errors import RunfoldError
from runfold.redact import secrets_of
from runner.by_hand import rest_unattended
from runner.claims import Claims
from runner.intake import take_in_spool
from runner.reactor import LOOK_SECONDS, Reactor
from runner.recovering.elsewhere import LOOK_SECONDS as ELSEWHERE_SECONDS
from runner.recovering.elsewhere import lose_silent
from runner.recovering.recover import recover
from runner.recovering.reported import Reporters
from runner.worker import Worker

SWEEP_SECONDS = 1.0
TURN_SECONDS = 0.05
_PASSING = (RunfoldError, OSError, sqlite3.Error)
"""What a look that is taken again in a moment may meet: the server and its runs go on without it."""


@dataclass(frozen=True, kw_only=True)
class Node:
    log: EventLog
    ledger: Ledger
    views: ViewService
    reporters: Reporters
    spending: Spending
    settings: Settings


@asynccontextmanager
async def open_node(settings: Settings) -> AsyncGenerator[Node]:
    """The folder's log and views, with what is overdue there ended."""
    async with AsyncExitStack() as stack:
        log = await open_log(settings.data, settings.log, blobs=settings.blobs)
        stack.push_async_callback(log.close)
        tell = await stack.enter_async_context(told_behind(settings.data))
        ledger = Ledger(log, data=settings.data, secrets=secrets_of(os.environ), tell=tell)
        url = store_url(settings)
        if url and mirrored_log(settings.data) is not None:
            # A new machine folds only what the snapshot of another does not have.
            log_id = (await log.bounds()).log_id
            await asyncio.to_thread(bring_views, settings.data, open_store(url), log_id)
        views = await ViewService.open(settings.data)
        stack.push_async_callback(views.close)
        registry = watched_registry()
        node = Node(
            log=log,
            ledger=ledger,
            views=views,
            reporters=Reporters(ledger, presence=log.presence),
            spending=Spending(views, lambda: registry().budgets),
            settings=settings,
        )
        await _end_overdue(node)
        yield node


def until_told_to_stop() -> asyncio.Event:
    """Set by SIGINT and SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def work(node: Node, *, slots: int, stop: asyncio.Event) -> None:
    """Drive queued runs and keep all deadlines until `stop`, then hand over or stop what runs, within its grace."""
    settings, registry = node.settings, watched_registry()
    claims = await Claims.open(settings.data, presence=node.log.presence)
    try:
        worker = Worker(
            node.ledger,
            node.log,
            node.views,
            claims,
            data=settings.data,
            registry=registry,
            slots=slots,
            left=node.spending.left,
        )
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(_sweep(node)),
                tasks.create_task(_keep_limits(Reactor(node.ledger, left=node.spending.left), node.views)),
                tasks.create_task(prove_now_and_then(settings.data, settings.verify_every_seconds)),
                tasks.create_task(watch_journal(settings.data)),
                tasks.create_task(_keep_states(settings.data, is_shared=node.log.presence is not None)),
                tasks.create_task(keep_copy(settings)),
                tasks.create_task(keep_snapshots(settings)),
            ]
            if settings.rebuild_after_upgrade:
                beside.append(tasks.create_task(fold_anew_after_upgrade(node.views, settings.data)))
            if node.log.presence is not None:
                beside.append(tasks.create_task(keep_views_clean(node.views, settings.data)))
                beside.append(tasks.create_task(_lose_silent(node.ledger, node.log.presence, node.views)))
            await worker.work(stop)
            structlog.get_logger().info("stopping")
            for task in beside:
                task.cancel()
    finally:
        await claims.close()


async def _sweep(node: Node) -> None:
    """Keep the deadlines of this folder's runs, whoever drives them, until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await _end_overdue(node)
        except _PASSING as error:
            # A log that is contended or full now may not be in a second; what is overdue stays so.
            structlog.get_logger().warning("overdue runs could not be ended", error=str(error))


async def _keep_states(data: Path, *, is_shared: bool) -> None:
    """Write the `state.json` that killed processes left behind; where the log is shared, of runs that others go on
    with too, until cancelled.
    """
    is_last = False
    while is_shared or not is_last:
        is_last = True  # Where it fails now the next process may do it.
        with kept_going():
            mended = await asyncio.to_thread(mend_some, data)
            is_last = mended is None or mended.is_last
        await asyncio.sleep(SWEEP_SECONDS if is_last else TURN_SECONDS)


async def _lose_silent(ledger: Ledger, presence: Presence, views: ViewService) -> None:
    """Take the runs of machines that are gone, until cancelled."""
    while True:
        try:
            active, _ = await views.query(active_runs)
            for run_id in await lose_silent(ledger, presence, active):
                structlog.get_logger().warning("run taken from a machine that is gone", run_id=run_id)
        except _PASSING as error:
            structlog.get_logger().warning("workers elsewhere could not be looked at", error=str(error))
        await asyncio.sleep(ELSEWHERE_SECONDS)


async def _keep_limits(reactor: Reactor, views: ViewService) -> None:
    """Keep what many runs share, and what time does to them, until cancelled."""
    while True:
        try:
            active, _ = await views.query(active_runs)
            await reactor.look(active)
        except _PASSING as error:
            structlog.get_logger().warning("limits could not be looked at", error=str(error))
        await asyncio.sleep(LOOK_SECONDS)


async def _end_overdue(node: Node) -> None:
    ledger, data = node.ledger, node.settings.data
    for run_id in await take_in_spool(ledger, data, actor=local_actor()):
        structlog.get_logger().info("took in what was left in the spool", run_id=run_id)
    lost = await recover(ledger, node.log, data=data, waits=False)
    active, _ = await node.views.query(active_runs)
    for run_id in await rest_unattended(ledger, node.log, active, data=data):
        structlog.get_logger().info("run paused: nobody waits for it any more", run_id=run_id)
    for run_id in [*lost, *await node.reporters.end_overdue(active)]:
        structlog.get_logger().warning("run ended: its driver is gone", run_id=run_id)

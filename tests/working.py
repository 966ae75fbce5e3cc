"""A real worker on a real log, with workflows given as text."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from projections.spending import Spending
from runfold.budgets import parse_budgets
from runfold.commands import Command, Queue
from runfold.envelope import Recorded, run_id_of
from runfold.state import Run
from runfold.workflows import Asked, Registry, order_of, parse_workflows
from runner.claims import Claims
from runner.worker import Worker
from tests.logs import logs

PATIENCE_SECONDS = 60.0
SHELL = """
[workflow.{name}]
command = ["sh", "-c", '''{script}''']
grace_seconds = 0.3
{more}
"""
RESTS = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})


@dataclass
class Working:
    log: SqliteLog
    ledger: Ledger
    registry: Registry
    stop: asyncio.Event
    data: Path
    views: ViewService
    spending: Spending

    async def queue(self, name: str, **asked: Any) -> str:
        identity = uuid.uuid4()
        order = order_of(self.registry.workflows[name], Asked(**asked), folder=self.registry.folder)
        await self.execute(run_id_of(identity), Queue(queued=order), str(identity))
        return run_id_of(identity)

    async def execute(self, run_id: str, command: Command, command_id: str = "") -> Run:
        executed = await self.ledger.execute(
            run_id, command, command_id=command_id or str(uuid.uuid4()), actor="user:test", tenant="default"
        )
        return executed.run

    async def wait(self, run_id: str, is_it: Callable[[Recorded], bool], *, after: int = 0) -> Recorded:
        """The run's first event after a position that is the one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for page in self.log.tail(after=after, stream=run_id):
                for recorded in page.events:
                    if is_it(recorded):
                        return recorded
        raise AssertionError("a tail has no end")

    async def wait_type(self, run_id: str, *types: str, after: int = 0) -> Recorded:
        return await self.wait(run_id, lambda recorded: recorded.type in types, after=after)

    async def wait_rest(self, run_id: str) -> Run:
        await self.wait_type(run_id, *RESTS)
        return await self.ledger.state(run_id)

    async def events(self, run_id: str) -> list[Recorded]:
        return [recorded async for page in self.log.read(stream=run_id) for recorded in page.events]

    async def types(self, run_id: str) -> list[str]:
        return [recorded.type for recorded in await self.events(run_id) if recorded.type != "subprocess_output"]


@asynccontextmanager
async def working(
    folder: Path, toml: str, *, slots: int = 4, workers: int = 1, now_us: Callable[[], int] | None = None
) -> AsyncGenerator[Working]:
    """`folder` is where the workflows work; the data is in `folder/data`. `now_us` is the clock of the log."""
    data = folder / "data"
    registry = Registry(workflows=parse_workflows(toml), budgets=parse_budgets(toml), folder=str(folder))
    log = await (logs.open(data) if now_us is None else logs.open(data, now_us=now_us))
    views = await ViewService.open(data)
    ledger, claims, stop = Ledger(log), await Claims.open(data), asyncio.Event()
    spending = Spending(views, lambda: registry.budgets)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                worker = Worker(
                    ledger, log, views, claims, data=data, registry=lambda: registry, slots=slots, left=spending.left
                )
                group.create_task(worker.work(stop))
            try:
                yield Working(log, ledger, registry, stop, data, views, spending)
            finally:
                stop.set()
    finally:
        await claims.close()
        await views.close()
        await log.close()


def shell(script: str, name: str = "w", more: str = "") -> str:
    return SHELL.format(name=name, script=script, more=more)

"""A worker on another machine, with a folder of its own, does at once what is asked of its runs, and outlives much."""

import asyncio
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.loopback import Cluster
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.cluster import REPLICAS
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.presence import JetStreamPresence
from eventstore.ledger import Ledger
from runfold.commands import Cancel, Command, Grant, Pause, Queue, Resume
from runfold.envelope import Recorded, run_id_of
from runfold.workflows import Asked, order_of, parse_workflows
from tests.contract.events import numbered
from tests.contract.jetstream import shared_cluster
from tests.effort import IS_LONG
from tests.leaving import are_gone, handles_of
from tests.processes import stop
from tests.terminal import started

ASKED_SECONDS = 1.0 if IS_LONG else 5.0  # What is asked takes some 0.1 s; the short form runs beside other tests.
ROUNDS = 50 if IS_LONG else 1
WITHIN_SECONDS = 60
SLOWEST = 0.99
TRIES_MAX = 3  # Of the short form, where the machine is busy with something else.
TOML = """
[workflow.allowed]
command = ["sh", "-c", "echo $$; exec sleep 600"]
approval = "may it begin?"
grace_seconds = 0.3
on_lost = "resume"

[workflow.lost]
command = ["sh", "-c", "test -e again && exit 0; touch again; echo $$; exec sleep 600"]
grace_seconds = 0.3
on_lost = "resume"

[workflow.short]
command = ["true"]
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(WITHIN_SECONDS * (ROUNDS + 2))]


class Here:
    """This machine: it asks and looks, and drives nothing."""

    def __init__(self, folder: Path, log: JetStreamLog, url: str) -> None:
        self.folder, self.log, self.url = folder, log, url
        self.ledger = Ledger(log)

    async def queue(self, workflow: str) -> str:
        order = order_of(parse_workflows(TOML)[workflow], Asked(), folder=str(self.folder))
        run_id = run_id_of(uuid.uuid4())
        await self.ask(run_id, Queue(queued=order))
        return run_id

    async def ask(self, run_id: str, command: Command) -> int:
        executed = await self.ledger.execute(run_id, command, actor="user:a", tenant="default")
        return executed.events[-1].position if executed.events else 0

    async def wait(self, run_id: str, *types: str, after: int = 0) -> Recorded:
        async with asyncio.timeout(WITHIN_SECONDS):
            async for page in self.log.tail(after=after, stream=run_id):
                for recorded in page.events:
                    if recorded.type in types and recorded.position > after:
                        return recorded
        raise AssertionError("a tail has no end")

    async def pid_of_turn(self, run_id: str, *, after: int = 0) -> int:
        said: Any = (await self.wait(run_id, "subprocess_output", after=after)).event()
        return int(said.text.split()[0])

    async def types(self, run_id: str) -> list[str]:
        return [it.type async for page in self.log.read(stream=run_id) for it in page.events]

    @contextmanager
    def worker(self, name: str) -> Generator["subprocess.Popen[str]"]:
        with started(self.folder / name, "--log", self.url, "worker", cwd=self.folder) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def opened(folder: Path, url: str, *, replicas: int = REPLICAS) -> AsyncGenerator[Here]:
    (folder / "runfold.toml").write_text(TOML)
    log = await JetStreamLog.connect(parse_address(url), folder / "here", replicas=replicas)
    try:
        yield Here(folder, log, url)
    finally:
        await log.close()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Here]:
    async with opened(tmp_path, shared_cluster().url(f"t{uuid.uuid4().hex}")) as here:
        yield here


async def test_what_is_asked_on_one_machine_is_done_on_another_within_a_second(here: Here) -> None:
    took: dict[str, list[float]] = {"pause": [], "resume": [], "approve": [], "cancel": []}

    async def until(name: str, run_id: str, command: Command, *types: str) -> None:
        began = time.monotonic()
        asked = await here.ask(run_id, command)
        await here.wait(run_id, *types, after=asked - 1)
        took[name].append(time.monotonic() - began)

    with here.worker("there"):
        await here.wait(await here.queue("short"), "run_completed")
        for number in range(max(ROUNDS, TRIES_MAX)):
            if number >= ROUNDS and all(min(found) < ASKED_SECONDS for found in took.values()):
                break
            run_id = await here.queue("allowed")
            asked: Any = (await here.wait(run_id, "approval_requested")).event()
            await until("approve", run_id, Grant(approval_id=asked.approval_id, driver="queue"), "turn_started")
            turn = await here.pid_of_turn(run_id)
            await until("pause", run_id, Pause(now=True), "run_paused")
            await until("resume", run_id, Resume(), "run_resumed")
            await until("cancel", run_id, Cancel(), "run_cancelled")
            assert are_gone(handles_of([turn]), 0)

    slowest = {name: sorted(found)[int(len(found) * SLOWEST) if IS_LONG else 0] for name, found in took.items()}
    print({name: f"{seconds:.3f} s" for name, seconds in slowest.items()})
    assert max(slowest.values()) < ASKED_SECONDS, slowest


async def test_a_worker_that_stood_still_past_its_time_writes_nothing_more_and_ends_what_it_drives(here: Here) -> None:
    with here.worker("there") as zombie:
        run_id = await here.queue("lost")
        turn = await here.pid_of_turn(run_id)
        claimed: Any = (await here.wait(run_id, "run_claimed")).event()
        stop(zombie)
        # As it is when it has been silent for its time.
        await JetStreamPresence(here.log.cluster).leave(claimed.worker)
        with here.worker("elsewhere"):
            await here.wait(run_id, "run_completed")
            before = await here.types(run_id)
            zombie.send_signal(signal.SIGCONT)
            gone = await asyncio.to_thread(are_gone, handles_of([turn]), WITHIN_SECONDS)
            other = await here.queue("short")
            await here.wait(other, "run_completed")
            after = await here.types(run_id)

    assert gone
    assert before.count("run_claimed") == 2
    assert before.count("claim_lost") == before.count("run_completed") == 1
    assert [name for name in after if name not in before] == []
    assert (after.count("turn_completed"), after[-1]) == (1, "run_completed")


async def test_a_worker_from_which_the_log_was_purged_says_so_and_goes_on_with_what_is_left(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", size=1)
    try:
        async with opened(tmp_path, cluster.url("log"), replicas=1) as here:
            with here.worker("there") as worker:
                await here.wait(await here.queue("short"), "run_completed")
                stop(worker)
                # What was on its way to the worker goes with its connection.
                cluster.nodes[0].kill()
                cluster.nodes[0].start()
                await asyncio.to_thread(cluster.wait_until_ready)
                purged = await here.log.append("r_gone", numbered(0, 200), expected=0)
                run_id = await here.queue("short")
                await here.log.cluster.jetstream.purge_stream("log", seq=purged.last + 1)
                worker.send_signal(signal.SIGCONT)

                await here.wait(run_id, "run_completed")

                assert worker.poll() is None
                worker.terminate()
                said = worker.communicate(timeout=WITHIN_SECONDS)[1]
    finally:
        cluster.stop()
    assert f'"first": {purged.last + 1}' in said
    assert "goes on with what is left" in said

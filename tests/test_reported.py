"""Reported runs whose reporter fell silent: the clock is the test's, the ledger and its log are real."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Cancel, Command, Observe, OpenReported, Pause
from runfold.events import Message, RunQueued
from runner.recovering.reported import ANSWER_SECONDS, Reporters

RUN = "r_" + "a" * 26
COMMAND = "00000000-0000-4000-8000-{:012d}"


class Scene:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = 0.0
        self.commands = 0
        self.reporters = Reporters(ledger, now=lambda: self.now)

    async def say(self, command: Command) -> None:
        self.commands += 1
        await self.ledger.execute(
            RUN, command, command_id=COMMAND.format(self.commands), actor="user:reporter", tenant="default"
        )

    async def sweep(self) -> list[str]:
        run = await self.ledger.state(RUN)
        return await self.reporters.end_overdue([] if run.is_resting else [run])

    async def told(self) -> tuple[str | None, str]:
        run = await self.ledger.state(RUN)
        return run.status, run.reason_code


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    log = await SqliteLog.open(tmp_path)
    scene = Scene(Ledger(log))
    await scene.say(OpenReported(queued=RunQueued(driver="reported", lease_seconds=30, grace_seconds=2)))
    await scene.sweep()
    yield scene
    await log.close()


async def test_a_reporter_that_falls_silent_for_its_lease_fails_its_run(scene: Scene) -> None:
    scene.now = 30.0
    assert await scene.sweep() == []

    scene.now = 30.1

    assert await scene.sweep() == [RUN]
    assert await scene.told() == ("failed", "WORKER_LOST")


async def test_a_heartbeat_renews_the_lease(scene: Scene) -> None:
    scene.now = 29.0
    await scene.reporters.renew(await scene.ledger.state(RUN))
    scene.now = 58.0

    assert await scene.sweep() == []


async def test_a_report_renews_the_lease(scene: Scene) -> None:
    scene.now = 29.0
    await scene.say(Observe(events=(Message(text="still here"),)))
    await scene.sweep()
    scene.now = 58.0

    assert await scene.sweep() == []


async def test_views_that_are_behind_are_no_reporters_silence(scene: Scene) -> None:
    old = await scene.ledger.state(RUN)
    scene.now = 29.0
    await scene.say(Observe(events=(Message(text="still here"),)))
    scene.now = 30.1

    assert await scene.reporters.end_overdue([old]) == []

    scene.now = 60.2
    assert await scene.reporters.end_overdue([old]) == [RUN]


async def test_leases_start_anew_with_the_process_that_counts_them(scene: Scene) -> None:
    scene.now = 1_000.0
    scene.reporters = Reporters(scene.ledger, now=lambda: scene.now)
    assert await scene.sweep() == []
    scene.now = 1_029.0

    assert await scene.sweep() == []


@pytest.mark.parametrize(
    ("wish", "status"),
    [(Cancel(reason="enough"), "cancelled"), (Pause(reason="later"), "paused")],
    ids=["cancel", "pause"],
)
async def test_what_a_reporter_does_not_answer_is_done_without_it(scene: Scene, wish: Command, status: str) -> None:
    await scene.say(wish)
    await scene.sweep()
    scene.now = 2 + ANSWER_SECONDS
    assert await scene.sweep() == []

    scene.now += 0.1

    assert await scene.sweep() == [RUN]
    assert (await scene.told())[0] == status

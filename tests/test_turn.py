"""What a turn holds open it lets go of once, however it ends, and then it writes to nothing any more."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runfold.errors import LogFailed
from runfold.events import Event, Unknown
from runner.turns.listener import Listener
from runner.turns.output import Output
from runner.turns.process import keepers_of
from runner.turns.turn import Turn, TurnPlan
from tests.working import PATIENCE_SECONDS

RUN = "r_turn"


def plan(*argv: str) -> TurnPlan:
    return TurnPlan(argv=argv, environment=dict(os.environ), stdin=b"", grace_seconds=0.2)


def opened(folder: Path, *argv: str) -> Turn:
    return Turn.open(plan(*argv), run_id=RUN, path=folder / "output.log", listener=Listener())


def descriptors() -> set[str]:
    """What this process holds open, by number and name."""
    found = {name: os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    return {f"{name} {path}" for name, path in found.items() if os.path.lexists(f"/proc/self/fd/{name}")}


async def ignore(events: Sequence[Event | Unknown], output: Output) -> None:
    pass


async def test_who_ends_a_turn_that_is_over_writes_into_no_file_that_was_opened_since(tmp_path: Path) -> None:
    turn = opened(tmp_path, "true")
    before: Any = await turn.run(ignore)
    # Numbers of descriptors are given again, the lowest first.
    opened_since = [os.open(tmp_path / f"{number}", os.O_RDWR | os.O_CREAT, 0o600) for number in range(20)]

    turn.end()
    turn.end(at_once=True)
    turn.send(b"S")

    for descriptor in opened_since:
        os.close(descriptor)
    assert before.report.exit_code == 0
    assert [(tmp_path / f"{number}").read_bytes() for number in range(20)] == [b""] * 20


async def test_a_turn_that_cannot_be_opened_leaves_nothing_open_and_nobody_behind(tmp_path: Path) -> None:
    (tmp_path / "output.log").mkdir()
    before = descriptors()

    with pytest.raises(IsADirectoryError):
        opened(tmp_path, "true")
    with pytest.raises(FileNotFoundError):
        Turn.open(
            msgspec.structs.replace(plan("true"), cwd=str(tmp_path / "nowhere")),
            run_id=RUN,
            path=tmp_path / "other.log",
            listener=Listener(),
        )

    assert descriptors() - before == set()
    assert keepers_of(RUN) == []


async def test_a_turn_whose_events_cannot_be_recorded_leaves_nothing_open(tmp_path: Path) -> None:
    async def refuse(events: Sequence[Event | Unknown], output: Output) -> None:
        if events:
            raise LogFailed("full")

    before = descriptors()

    for script in ("echo hello", "echo hello; exec sleep 600"):
        with pytest.raises((LogFailed, ExceptionGroup)):
            await opened(tmp_path, "sh", "-c", script).run(refuse)

    async with asyncio.timeout(PATIENCE_SECONDS):
        while descriptors() - before:
            # The streams' threads close theirs when the last writer has gone.
            await asyncio.sleep(0)


def test_a_turn_that_is_cancelled_again_and_again_leaves_nothing_open(tmp_path: Path) -> None:
    async def cancelled() -> None:
        running = asyncio.create_task(opened(tmp_path, "sleep", "600").run(ignore))
        while not running.done():
            await asyncio.sleep(0)
            running.cancel()

    before = descriptors()

    asyncio.run(cancelled())

    deadline = time.monotonic() + PATIENCE_SECONDS
    while descriptors() - before or keepers_of(RUN):
        assert time.monotonic() < deadline, descriptors() - before
        os.sched_yield()

"""A driver that is killed before or after anything it does: nothing is left, no turn is told twice, every run rests."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventstore.failpoints import NAME as FAILPOINT
from runfold.commands import Cancel, Command, Observe, Pause, Resume
from runfold.events import TokenUsage, TurnCancelled, TurnCompleted, TurnFailed, TurnStarted
from runfold.state import Run
from runner.recovering.recover import recover
from tests.effort import IS_LONG
from tests.leaving import ESCAPEE, GRACE_SECONDS, ROOT, escaping, left_of, queue, served
from tests.processes import PROGRAMS
from tests.terminal import runfold
from tests.working import PATIENCE_SECONDS, Working, working

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfds")]


class Case(NamedTuple):
    """Where the server dies, what makes it go there, and what the run comes to with the next one.

    `code` ends the first turn; without one it never ends by itself. `wishes` are said once its child has escaped, each
    when the run has come to the status before it. `turns` is how many are made, where that is sure.
    """

    place: str
    status: str
    wishes: tuple[tuple[str, Command | signal.Signals], ...] = ()
    code: int | None = None
    turns: int | None = None
    is_quick: bool = False


CANCEL = (("running", Cancel()),)
PAUSE = (("running", Pause(now=True)),)
RESUME = (*PAUSE, ("paused", Resume()))
SPEND = (("running", Observe(events=(TokenUsage(input_tokens=9),))),)
TERM = (("running", signal.SIGTERM),)
SERVER = [
    Case("before.Claim", "completed"),
    Case("after.Claim", "completed"),
    Case("before.Start", "completed"),
    Case("after.Start", "completed"),
    Case("turn.opened", "completed"),
    Case("before.StartTurn", "completed"),
    Case("after.StartTurn", "completed", is_quick=True),
    Case("before.Observe", "completed"),
    Case("after.Observe", "completed"),
    Case("before.EndTurn", "completed", code=0, is_quick=True),
    Case("after.EndTurn", "completed", code=0, turns=1, is_quick=True),
    Case("before.Complete", "completed", code=0, turns=1),
    Case("after.Complete", "completed", code=0, turns=1),
    Case("before.Fail", "failed", code=3, turns=1, is_quick=True),
    Case("after.Fail", "failed", code=3, turns=1),
    Case("heard.pause_requested", "completed", PAUSE),
    Case("before.Paused", "completed", PAUSE),
    Case("after.Paused", "completed", PAUSE, is_quick=True),
    Case("heard.run_resumed", "completed", RESUME),
    Case("heard.cancel_requested", "cancelled", CANCEL, is_quick=True),
    Case("before.Cancelled", "cancelled", CANCEL),
    Case("after.Cancelled", "cancelled", CANCEL),
    Case("heard.limit_exceeded", "stopped", SPEND),
    Case("before.ReleaseClaim", "completed", TERM),
    Case("after.ReleaseClaim", "completed", TERM),
]
# The same with a graph of one step: a step whose end was not told is made again.
STEPS = [
    Case("before.StartStep", "completed"),
    Case("after.StartStep", "completed"),
    Case("step_turn.opened", "completed"),
    Case("before.StartTurn", "completed"),
    Case("after.StartTurn", "completed"),
    Case("after.Observe", "completed"),
    Case("before.EndTurn", "completed", code=0),
    Case("after.EndTurn", "completed", code=0, is_quick=True),
    Case("before.CompleteStep", "completed", code=0),
    Case("after.CompleteStep", "completed", code=0, turns=1),
    Case("before.FailStep", "completed", code=3),
    Case("after.FailStep", "failed", code=3, turns=1),
    Case("after.Paused", "completed", PAUSE),
    Case("before.Cancelled", "cancelled", CANCEL, is_quick=True),
]
HERE = [
    *(Case(place, "failed") for place in ("after.StartHere", "turn.opened", "after.StartTurn")),
    Case("before.StartHere", ""),
    Case("after.Observe", "failed", is_quick=True),
    Case("heard.pause_requested", "failed", PAUSE),
    Case("before.Paused", "failed", PAUSE),
    Case("after.Paused", "failed", PAUSE),
    Case("heard.run_resumed", "failed", RESUME),
    Case("heard.cancel_requested", "cancelled", CANCEL),
    Case("before.Cancelled", "cancelled", CANCEL, is_quick=True),
    Case("after.Cancelled", "cancelled", CANCEL),
]


@pytest.mark.parametrize("case", [it for it in SERVER if IS_LONG or it.is_quick], ids=lambda case: case.place)
async def test_a_server_that_is_killed_in_any_state_leaves_nothing_and_its_run_comes_to_a_rest(
    tmp_path: Path, case: Case
) -> None:
    await kill_and_come_to_rest(tmp_path, escaping(tmp_path, "resume", case.code) + "limits = {tokens = 5}\n", case)


@pytest.mark.parametrize("case", [it for it in STEPS if IS_LONG or it.is_quick], ids=lambda case: case.place)
async def test_a_server_that_is_killed_in_any_state_of_a_step_leaves_nothing_and_its_run_comes_to_a_rest(
    tmp_path: Path, case: Case
) -> None:
    await kill_and_come_to_rest(tmp_path, of_one_step(tmp_path, case.code), case)


@pytest.mark.parametrize("place", ["before.LoseClaim", "after.LoseClaim"])
async def test_a_recovery_that_is_killed_is_gone_on_with_by_the_next(tmp_path: Path, place: str) -> None:
    toml = escaping(tmp_path, "resume")
    run_id = await queue(tmp_path, toml)
    with served(tmp_path, **{FAILPOINT: "after.Observe"}) as server:
        await asyncio.to_thread(server.wait, PATIENCE_SECONDS)

    environ: dict[str, Any] = {FAILPOINT: place}
    killed = await asyncio.to_thread(runfold, tmp_path / "data", "recover", **environ)
    run, turns = await come_to_rest(tmp_path, toml, run_id)

    assert killed.returncode == -signal.SIGKILL
    assert await asyncio.to_thread(left_of, tmp_path, PATIENCE_SECONDS) == []
    assert (run.status, run.recoveries) == ("completed", 1)
    assert_each_turn_is_told_once(turns, run)


def of_one_step(folder: Path, code: int | None) -> str:
    command = next(line for line in escaping(folder, "resume", code).splitlines() if line.startswith("command"))
    top = f"[workflow.w]\ngrace_seconds = {GRACE_SECONDS}\non_lost = 'resume'\n"
    return f"{top}[[workflow.w.steps]]\nid = 'a'\n{command}\n"


async def kill_and_come_to_rest(tmp_path: Path, toml: str, case: Case) -> None:
    run_id = await queue(tmp_path, toml)

    async with working(tmp_path, toml, workers=0) as watching:
        with served(tmp_path, **{FAILPOINT: case.place}) as server:
            await say(watching, run_id, case, server)
            code = await asyncio.to_thread(server.wait, PATIENCE_SECONDS)
            left = await asyncio.to_thread(left_of, tmp_path, PATIENCE_SECONDS)
    run, turns = await come_to_rest(tmp_path, toml, run_id)

    assert (code, left) == (-signal.SIGKILL, [])
    assert (run.status, run.worker, run.open_turns) == (case.status, "", ())
    assert run.turns == (case.turns or run.turns)
    assert_each_turn_is_told_once(turns, run)


async def say(watching: Working, run_id: str, case: Case, server: "subprocess.Popen[bytes]") -> None:
    if case.wishes:
        await watching.wait_type(run_id, "subprocess_output")
    for status, wish in case.wishes:
        if status == "paused":
            await watching.wait_type(run_id, "run_paused")
        if isinstance(wish, signal.Signals):
            server.send_signal(wish)
        else:
            await watching.execute(run_id, wish)


async def come_to_rest(folder: Path, toml: str, run_id: str) -> tuple[Run, list[object]]:
    """What the next server makes of the run, and every event about its turns."""
    async with working(folder, toml, workers=0) as nobody:
        await recover(nobody.ledger, nobody.log, data=nobody.data)
        if (await nobody.ledger.state(run_id)).status == "paused":
            # It waits for a person, and goes on when asked to.
            await nobody.execute(run_id, Resume())
    # A first turn that was never made is not made now: what is asked is where the run goes from there.
    (folder / "again").touch()
    async with working(folder, toml) as worker:
        run = await worker.wait_rest(run_id)
        turns = [r.event() for r in await worker.events(run_id) if r.type.startswith("turn_")]
    return run, list(turns)


def assert_each_turn_is_told_once(turns: list[object], run: Run) -> None:
    started = [event.turn for event in turns if isinstance(event, TurnStarted)]
    ended = [event.turn for event in turns if isinstance(event, TurnCompleted | TurnFailed | TurnCancelled)]
    assert started == ended == list(range(1, run.turns + 1))


@pytest.mark.parametrize("case", [it for it in HERE if IS_LONG or it.is_quick], ids=lambda case: case.place)
async def test_a_command_in_a_terminal_that_is_killed_in_any_state_leaves_nothing_and_ends_with_recover(
    tmp_path: Path, case: Case
) -> None:
    data = tmp_path / "data"
    words = [sys.executable, str(PROGRAMS / "drive.py"), str(data), sys.executable, str(ESCAPEE), str(tmp_path)]
    more = {"PYTHONPATH": str(ROOT), "GRACE_SECONDS": str(GRACE_SECONDS), FAILPOINT: case.place}

    async with working(tmp_path, "", workers=0) as watching:
        with subprocess.Popen(
            words, env={**os.environ, **more}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as driver:
            if case.wishes:
                await say(watching, await opened(watching), case, driver)
            code = await asyncio.to_thread(driver.wait, PATIENCE_SECONDS)
        left = await asyncio.to_thread(left_of, tmp_path, PATIENCE_SECONDS)
        await recover(watching.ledger, watching.log, data=watching.data)
        runs = [await watching.ledger.state(await opened(watching))] if case.status else []

    assert (code, left) == (-signal.SIGKILL, [])
    assert [run.status for run in runs] == ([case.status] if case.status else [])
    assert all(run.reason_code in ("WORKER_LOST", "CANCELLED_BY_USER") for run in runs)


async def opened(watching: Working) -> str:
    """The id of the only run, once it is there."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for page in watching.log.tail(after=0):
            for recorded in page.events:
                if recorded.type == "run_queued":
                    return recorded.run_id
    raise AssertionError("a tail has no end")

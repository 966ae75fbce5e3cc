"""Whatever is killed or stopped, nothing spends on, nothing is recorded twice, and every run comes to a rest."""

import asyncio
import fcntl
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.failpoints import NAME as FAILPOINT
from eventstore.leases import Leases, monotonic_us
from eventstore.log_file import open_reader
from eventstore.proof.attachments import Attachments
from eventstore.writing import LOCK_FILE
from runfold.commands import Cancel, LoseClaim
from runfold.ending import RECOVERIES_MAX
from runfold.events import TurnCompleted, TurnStarted
from runfold.state import Run
from runner import machine
from runner.claims import Claims
from runner.recovering.recover import recover
from tests.effort import IS_LONG
from tests.leaving import ROOT, are_gone, escaping, handles_of_escapee, left_of, queue, served
from tests.working import PATIENCE_SECONDS, working

# `make torture` fences a worker fifty times.
FENCINGS = 50 if IS_LONG else 3
SEED = int(os.environ.get("RUNFOLD_TORTURE_SEED", random.randrange(2**32)))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfds")]


@pytest.mark.parametrize(("on_lost", "status", "turns"), [("fail", "failed", 1), ("resume", "completed", 2)])
async def test_after_a_killed_server_nothing_is_left_and_the_next_one_ends_or_resumes_the_run(
    tmp_path: Path, on_lost: str, status: str, turns: int
) -> None:
    run_id = await queue(tmp_path, escaping(tmp_path, on_lost))

    async with working(tmp_path, escaping(tmp_path, on_lost), workers=0) as watching:
        with served(tmp_path) as server:
            handles = await handles_of_escapee(watching, run_id)
            server.kill()
            gone = await asyncio.to_thread(are_gone, handles, PATIENCE_SECONDS)
        with served(tmp_path):
            run = await watching.wait_rest(run_id)
            started = [r.event() for r in await watching.events(run_id) if r.type == "turn_started"]

    assert gone
    assert (run.status, run.reason_code) == (status, "WORKER_LOST" if on_lost == "fail" else "EXIT_ZERO")
    assert [event.turn for event in started if isinstance(event, TurnStarted)] == list(range(1, turns + 1))


async def test_the_output_of_a_run_whose_driver_was_killed_in_a_turn_is_proved_after_the_next(tmp_path: Path) -> None:
    toml = escaping(tmp_path, "resume").replace("test -e again && exit 0", "test -e again && echo second && exit 0")
    run_id = await queue(tmp_path, toml)

    async with working(tmp_path, toml, workers=0) as watching:
        with served(tmp_path) as server:
            await handles_of_escapee(watching, run_id)
            server.kill()
        with served(tmp_path):
            run = await watching.wait_rest(run_id)
            (ended,) = [r.event() for r in await watching.events(run_id) if r.type == "turn_completed"]
    data = tmp_path / "data"
    reader = open_reader(data)
    found = list(Attachments(reader, data).faults(upto=2**62))
    output = data / "runs" / run_id / "output.log"
    output.write_bytes(output.read_bytes().replace(b"second", b"Second"))
    altered = list(Attachments(reader, data).faults(upto=2**62))
    reader.close()

    assert run.status == "completed"
    assert isinstance(ended, TurnCompleted)
    assert ended.output_bytes == len("second\n")
    assert ended.output_offset
    assert found == []
    assert [fault.kind for fault in altered] == ["output"]


async def test_a_server_that_is_told_to_stop_hands_its_run_over_and_exits_0(tmp_path: Path) -> None:
    run_id = await queue(tmp_path, escaping(tmp_path, "resume"))

    async with working(tmp_path, escaping(tmp_path, "resume"), workers=0) as watching:
        with served(tmp_path) as server:
            handles = await handles_of_escapee(watching, run_id)
            server.terminate()
            code = await asyncio.to_thread(server.wait, PATIENCE_SECONDS)
        run = await watching.ledger.state(run_id)

    assert (code, run.status, run.turn_open) == (0, "queued", False)
    assert are_gone(handles, 0)


# It says nothing: a shell tells of children that were ended, and whoever writes to a driver that is gone is ended too.
HELD = """
[workflow.w]
command = ["sh", "-c", '''
env -i PATH="$PATH" setsid sh -c '
trap : TERM; echo $$ > new; mv new held; until test -e go; do sleep 0.05; done' >/dev/null 2>&1 &
until test -e held; do :; done; echo up; exec sleep 600
''']
grace_seconds = 100
on_lost = "resume"
"""


async def test_the_turn_after_a_lost_driver_may_begin_once_nothing_of_the_last_one_is_left(tmp_path: Path) -> None:
    run_id = await queue(tmp_path, HELD)

    async with working(tmp_path, HELD, workers=0) as watching:
        with served(tmp_path) as server:
            await watching.wait_type(run_id, "subprocess_output")
            server.kill()
            server.wait()
        at_once = await recover(watching.ledger, watching.log, data=watching.data, waits=False)
        (tmp_path / "go").touch()
        lost = await recover(watching.ledger, watching.log, data=watching.data)
        is_left = machine.process_started_at(int((tmp_path / "held").read_text())) != ""
        run = await watching.ledger.state(run_id)

    assert (at_once, lost, is_left) == ([], [run_id], False)
    assert run.status == "queued"


@pytest.mark.timeout(900)
async def test_a_worker_that_slept_past_its_claim_writes_nothing_more_and_ends_its_children(tmp_path: Path) -> None:
    toml = escaping(tmp_path, "resume")
    chance = random.Random(SEED)
    (tmp_path / "runfold.toml").write_text(toml)
    with served(tmp_path) as sleeper:
        for number in range(FENCINGS):
            moment = chance.choice(["run_claimed", "run_started", "turn_started", "subprocess_output"])

            run, late, left = await fence(tmp_path, toml, sleeper, moment)

            told = f"seed {SEED}, fencing {number}, stopped at {moment}"
            assert (run.status, run.claim, late, left) == ("completed", 2, [], []), told


async def fence(
    folder: Path, toml: str, sleeper: "subprocess.Popen[bytes]", moment: str
) -> tuple[Run, list[str], list[str]]:
    """Stop the worker at that moment, let another take the run over, wake the first; what it wrote late, and left."""
    (folder / "again").unlink(missing_ok=True)
    async with working(folder, toml, workers=0) as watching:
        run_id = await watching.queue("w")
        await watching.wait_type(run_id, moment)
        stop_between_appends(sleeper, folder / "data" / LOCK_FILE)
        # What it had not started yet is no escapee of ours.
        (folder / "again").touch()
    async with working(folder, toml) as other:
        await other.execute(run_id, LoseClaim(claim=1, reason="it sleeps"))
        run = await other.wait_rest(run_id)
    sleeper.send_signal(signal.SIGCONT)
    left = await asyncio.to_thread(left_of, folder, PATIENCE_SECONDS, but=sleeper.pid)
    async with working(folder, toml, workers=0) as watching:
        events = await watching.events(run_id)
    lost = next(event.position for event in events if event.type == "claim_lost")
    late = [
        event.type
        for event in events
        if event.position > lost and event.type != "command_refused" and event.actor.endswith(f":{sleeper.pid}")
    ]
    return run, late, left


def stop_between_appends(process: "subprocess.Popen[bytes]", lock: Path) -> None:
    """Who is stopped in the middle of an append keeps the log from everybody, so nobody could take over from him."""
    with lock.open() as file:
        while True:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                process.send_signal(signal.SIGCONT)


async def test_a_run_whose_worker_is_lost_again_and_again_fails_at_the_limit_of_recoveries(tmp_path: Path) -> None:
    toml = escaping(tmp_path, "resume").replace("touch again; ", "")
    run_id = await queue(tmp_path, toml)

    ends: list[int] = []
    for _ in range(RECOVERIES_MAX + 1):
        with served(tmp_path, **{FAILPOINT: "after.Observe"}) as server:
            ends.append(await asyncio.to_thread(server.wait, PATIENCE_SECONDS))
    left = await asyncio.to_thread(left_of, tmp_path, PATIENCE_SECONDS)
    async with working(tmp_path, toml, workers=0) as watching:
        await recover(watching.ledger, watching.log, data=watching.data)
        run = await watching.ledger.state(run_id)
        types = await watching.types(run_id)

    assert set(ends) == {-signal.SIGKILL}
    assert (run.status, run.reason_code, run.recoveries, left) == ("failed", "RECOVERY_LIMIT", RECOVERIES_MAX + 1, [])
    assert types.count("turn_started") == types.count("turn_cancelled") == RECOVERIES_MAX + 1


async def test_a_workflow_whose_terminal_is_killed_is_resumed_by_the_next_server(tmp_path: Path) -> None:
    toml = escaping(tmp_path, "resume")
    (tmp_path / "runfold.toml").write_text(toml)
    driver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runfold", "--data", str(tmp_path / "data"), "run", "--quiet", "--workflow", "w"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), FAILPOINT: "after.Observe"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    code = await asyncio.wait_for(driver.wait(), PATIENCE_SECONDS)

    async with working(tmp_path, toml, workers=0) as nobody:
        (run_id,) = await recover(nobody.ledger, nobody.log, data=nobody.data)
        lost = await nobody.ledger.state(run_id)
    # Whoever recovers at once comes upon the keeper at its work, and must not end it in the middle.
    left = await asyncio.to_thread(left_of, tmp_path, PATIENCE_SECONDS)
    async with working(tmp_path, toml) as worker:
        run = await worker.wait_rest(run_id)

    assert (code, lost.status, lost.driver, left) == (-signal.SIGKILL, "queued", "queue", [])
    assert (run.status, run.turns, run.claim) == ("completed", 2, 2)


async def test_a_killed_keeper_leaves_nothing_that_carries_its_marker(tmp_path: Path) -> None:
    toml = "[workflow.w]\ncommand = ['sh', '-c', 'echo $$; sleep 1000']\n"
    async with working(tmp_path, toml) as worker:
        run_id = await worker.queue("w")
        handles = await handles_of_escapee(worker, run_id)
        started = (await worker.wait_type(run_id, "turn_started")).event()

        assert isinstance(started, TurnStarted)
        assert started.pid is not None
        os.kill(started.pid, signal.SIGKILL)
        run = await worker.wait_rest(run_id)

        assert (run.status, run.reason_code) == ("failed", "KILLED")
        assert await asyncio.to_thread(are_gone, handles, PATIENCE_SECONDS)


async def test_a_lease_is_renewed_while_it_is_held_and_its_loss_is_told(tmp_path: Path) -> None:
    loop, renewed, lost = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def clock() -> int:
        loop.call_soon_threadsafe(renewed.set)
        return monotonic_us()

    claims = Claims(Leases.open(tmp_path, monotonic_us=clock), 0.005)
    other = await Claims.open(tmp_path)

    def expiry() -> int:
        return other._leases.of_host(machine.host())[0].expires_monotonic_us

    await claims.take("r_1", "default", 1)
    first = expiry()
    async with claims.renewing("r_1", lambda: 1, lost.set), asyncio.timeout(PATIENCE_SECONDS):
        # The clock is asked before the row is written: at the third look the second renewal is done.
        for _ in range(3):
            renewed.clear()
            await renewed.wait()
        second, was_lost_before = expiry(), lost.is_set()
        await other.take("r_1", "default", 2)
        await lost.wait()
    await claims.close()
    await other.close()

    assert second > first
    assert not was_lost_before


async def test_a_cancel_ends_an_escapee_too(tmp_path: Path) -> None:
    toml = escaping(tmp_path, "fail")
    async with working(tmp_path, toml) as worker:
        run_id = await worker.queue("w")
        handles = await handles_of_escapee(worker, run_id)

        await worker.execute(run_id, Cancel())
        run = await worker.wait_rest(run_id)

        assert run.reason_code == "CANCELLED_BY_USER"
        assert are_gone(handles, 0)

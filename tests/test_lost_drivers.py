"""Whatever is killed or stopped, nothing spends on, nothing is recorded twice, and every run comes to a rest."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runfold.commands import Cancel, LoseClaim
from runfold.events import TurnStarted
from runner.claims import Claims
from tests.working import PATIENCE_SECONDS, working

ROOT = Path(__file__).parent.parent
ESCAPEE = Path(__file__).parent / "programs" / "escapee.py"
GRACE_SECONDS = 0.3

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfds")]


def escaping(folder: Path, on_lost: str) -> str:
    """A workflow whose first turn leaves an escapee and never ends, and whose second one is over at once."""
    script = f"test -e again && exit 0; touch again; exec {sys.executable} {ESCAPEE} {folder}/pids"
    return (
        f"[workflow.w]\ncommand = ['sh', '-c', '''{script}''']\n"
        f"grace_seconds = {GRACE_SECONDS}\non_lost = '{on_lost}'\n"
    )


@contextmanager
def served(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`runfold up` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runfold", "--data", str(folder / "data"), "up", "--port", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


async def pids_in(folder: Path) -> list[int]:
    """The numbers of the escapee and its parent, once it is there."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (folder / "pids").exists():
            await asyncio.sleep(0.01)
    return [int(word) for word in (folder / "pids").read_text().split()]


def are_gone(handles: list[int], seconds: float) -> bool:
    gone = all(select.select([handle], [], [], seconds)[0] for handle in handles)
    for handle in handles:
        os.close(handle)
    return gone


def handles_of(pids: list[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        try:
            found.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    return found


async def queue(folder: Path, toml: str) -> str:
    (folder / "runfold.toml").write_text(toml)
    async with working(folder, toml, workers=0) as nobody:
        return await nobody.queue("w")


@pytest.mark.parametrize(("on_lost", "status", "turns"), [("fail", "failed", 1), ("resume", "completed", 2)])
async def test_after_a_killed_server_nothing_is_left_and_the_next_one_ends_or_resumes_the_run(
    tmp_path: Path, on_lost: str, status: str, turns: int
) -> None:
    run_id = await queue(tmp_path, escaping(tmp_path, on_lost))

    with served(tmp_path) as server:
        handles = handles_of(await pids_in(tmp_path))
        server.kill()
        gone = await asyncio.to_thread(are_gone, handles, GRACE_SECONDS + 2)
    with served(tmp_path):
        async with working(tmp_path, escaping(tmp_path, on_lost), workers=0) as watching:
            run = await watching.wait_rest(run_id)
            started = [r.event() for r in await watching.events(run_id) if r.type == "turn_started"]

    assert gone
    assert (run.status, run.reason_code) == (status, "WORKER_LOST" if on_lost == "fail" else "EXIT_ZERO")
    assert [event.turn for event in started if isinstance(event, TurnStarted)] == list(range(1, turns + 1))


async def test_a_server_that_is_told_to_stop_hands_its_run_over_and_exits_0(tmp_path: Path) -> None:
    run_id = await queue(tmp_path, escaping(tmp_path, "resume"))

    with served(tmp_path) as server:
        handles = handles_of(await pids_in(tmp_path))
        server.terminate()
        code = await asyncio.to_thread(server.wait, PATIENCE_SECONDS)
    async with working(tmp_path, escaping(tmp_path, "resume"), workers=0) as watching:
        run = await watching.ledger.state(run_id)

    assert (code, run.status, run.turn_open) == (0, "queued", False)
    assert are_gone(handles, 0)


async def test_a_worker_that_slept_past_its_claim_writes_nothing_more_and_ends_its_children(tmp_path: Path) -> None:
    run_id = await queue(tmp_path, escaping(tmp_path, "resume"))

    with served(tmp_path) as sleeper:
        handles = handles_of(await pids_in(tmp_path))
        sleeper.send_signal(signal.SIGSTOP)
        async with working(tmp_path, escaping(tmp_path, "resume")) as other:
            await other.execute(run_id, LoseClaim(claim=1, reason="it sleeps"))
            run = await other.wait_rest(run_id)
            sleeper.send_signal(signal.SIGCONT)
            gone = await asyncio.to_thread(are_gone, handles, PATIENCE_SECONDS)
            events = await other.events(run_id)

    lost = next(event.position for event in events if event.type == "claim_lost")
    late = {event.actor for event in events if event.position > lost and event.type != "command_refused"}
    assert (run.status, run.claim, gone) == ("completed", 2, True)
    assert not {actor for actor in late if actor.endswith(f":{sleeper.pid}")}


async def test_a_killed_keeper_leaves_nothing_that_carries_its_marker(tmp_path: Path) -> None:
    toml = "[workflow.w]\ncommand = ['sh', '-c', 'echo $$ > pid.new; mv pid.new pids; sleep 1000']\n"
    async with working(tmp_path, toml) as worker:
        run_id = await worker.queue("w")
        handles = handles_of(await pids_in(tmp_path))
        started = (await worker.wait_type(run_id, "turn_started")).event()

        assert isinstance(started, TurnStarted)
        assert started.pid is not None
        os.kill(started.pid, signal.SIGKILL)
        run = await worker.wait_rest(run_id)

        assert (run.status, run.reason_code) == ("failed", "KILLED")
        assert await asyncio.to_thread(are_gone, handles, GRACE_SECONDS + 2)


async def test_a_lease_is_renewed_while_it_is_held_and_its_loss_is_told(tmp_path: Path) -> None:
    claims = await Claims.open(tmp_path, renew_seconds=0.005)
    other = await Claims.open(tmp_path)
    lost = asyncio.Event()

    def expiry() -> int:
        return claims._leases.of_host(os.uname().nodename)[0].expires_monotonic_us

    await claims.take("r_1", "default", 1)
    first = expiry()
    async with claims.renewing("r_1", lambda: 1, lost.set):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while expiry() == first:
                await asyncio.sleep(0.005)
        was_lost_before = lost.is_set()
        await other.take("r_1", "default", 2)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await lost.wait()
    claims.close()
    other.close()

    assert not was_lost_before


async def test_a_cancel_ends_an_escapee_too(tmp_path: Path) -> None:
    toml = escaping(tmp_path, "fail")
    async with working(tmp_path, toml) as worker:
        run_id = await worker.queue("w")
        handles = handles_of(await pids_in(tmp_path))

        await worker.execute(run_id, Cancel())
        run = await worker.wait_rest(run_id)

        assert run.reason_code == "CANCELLED_BY_USER"
        assert are_gone(handles, 0)

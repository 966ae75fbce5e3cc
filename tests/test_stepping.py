"""A worker drives a graph of steps with real processes: in order, at once, again, with limits, questions, a cache."""

import asyncio
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstore.log_file import open_reader
from eventstore.proof.attachments import Attachments
from runfold.commands import Cancel, CompleteStep, Deny, Grant, StartStep
from runfold.events import ArtifactStored, StepCompleted, StepStarted
from runner.steps import stepping
from runner.turns import output_file
from runner.turns.watching import Watching
from tests.disks import small_disk
from tests.working import PATIENCE_SECONDS, Working, working

TURNS = 100
pytestmark = pytest.mark.slow


def toml(*steps: str, limits: str = "") -> str:
    return "[workflow.w]\n" + limits + "".join(f"[[workflow.w.steps]]\n{step}\n" for step in steps)


def step(name: str, script: str | None = None, *more: str, needs: str = "") -> str:
    lines = [f'id = "{name}"', f"needs = [{', '.join(repr(it) for it in needs.split())}]", *more]
    if script is not None:
        lines.append(f"command = ['sh', '-c', '''{script}''']")
    return "\n".join(lines)


async def statuses(workers: Working, run_id: str) -> dict[str, str]:
    run = await workers.ledger.state(run_id)
    return {name: state.status for name, state in run.step_states.items()}


async def order_of_steps(workers: Working, run_id: str) -> list[tuple[str, str]]:
    events = [(it.type, it.event()) for it in await workers.events(run_id)]
    return [(kind, event.step) for kind, event in events if isinstance(event, StepStarted | StepCompleted)]


async def test_every_step_runs_after_its_needs_and_the_run_completes_with_the_last(tmp_path: Path) -> None:
    text = toml(
        step("a", "echo a >> made"), step("b", "echo b >> made", needs="a"), step("c", "echo c >> made", needs="b")
    )
    async with working(tmp_path, text) as workers:
        run_id = await workers.queue("w")
        run = await workers.wait_rest(run_id)

        assert (run.status, run.reason_code) == ("completed", "ALL_STEPS_COMPLETED")
        assert (tmp_path / "made").read_text() == "a\nb\nc\n"
        assert [kind for kind, _ in await order_of_steps(workers, run_id)] == ["step_started", "step_completed"] * 3


async def test_ready_steps_run_at_once_up_to_the_slots(tmp_path: Path) -> None:
    # Each waits for the other two: one after the other they would never end.
    script = "touch $RUNFOLD_STEP; until [ -e a ] && [ -e b ] && [ -e c ]; do sleep 0.02; done"
    async with working(tmp_path, toml(*(step(name, script) for name in "abc")), slots=3) as workers:
        run = await workers.wait_rest(await workers.queue("w"))

        assert run.status == "completed"


async def test_no_more_steps_than_slots_run_at_once(tmp_path: Path) -> None:
    script = "mkdir busy || echo $RUNFOLD_STEP >> together; sleep 0.1; rmdir busy"
    async with working(tmp_path, toml(*(step(name, script) for name in "abc")), slots=1) as workers:
        run = await workers.wait_rest(await workers.queue("w"))

        assert (run.status, (tmp_path / "together").exists()) == ("completed", False)


async def test_the_end_of_one_step_ends_no_process_of_another(tmp_path: Path) -> None:
    text = toml(
        step("quick", "sleep 30 & exit 0"), step("slow", "until [ -e go ]; do sleep 0.02; done; echo ok > kept")
    )
    async with working(tmp_path, text) as workers:
        run_id = await workers.queue("w")
        await workers.wait_type(run_id, "step_completed")
        (tmp_path / "go").touch()
        run = await workers.wait_rest(run_id)

        assert run.status == "completed"
        assert (tmp_path / "kept").exists()


async def test_a_step_that_fails_is_tried_again_and_then_fails_the_run_with_its_words(tmp_path: Path) -> None:
    text = toml(
        step("a", "echo x >> tries; exit 3", "attempts_max = 3", "backoff_seconds = 0.01"), step("b", "true", needs="a")
    )
    async with working(tmp_path, text) as workers:
        run = await workers.wait_rest(await workers.queue("w"))

        assert (run.status, run.reason_code) == ("failed", "STEP_FAILED")
        assert run.message == "step a failed in attempt 3: `sh` exited with 3"
        assert (tmp_path / "tries").read_text() == "x\n" * 3
        assert [it.status for it in run.step_states["a"].attempts] == ["failed"] * 3
        assert "b" not in run.step_states


async def test_a_step_that_takes_too_long_is_ended_as_timed_out(tmp_path: Path) -> None:
    async with working(tmp_path, toml(step("a", "sleep 60", "timeout_seconds = 0.2"))) as workers:
        run = await workers.wait_rest(await workers.queue("w"))

        assert (run.status, run.reason_code) == ("failed", "TIMED_OUT")


async def test_what_a_step_makes_is_kept_and_what_it_promised_and_did_not_make_fails_it(tmp_path: Path) -> None:
    text = toml(
        step("a", "echo one > a.txt", 'outputs = ["a.txt"]'), step("b", "true", 'outputs = ["b.txt"]', needs="a")
    )
    async with working(tmp_path, text) as workers:
        run_id = await workers.queue("w")
        run = await workers.wait_rest(run_id)
        found = [it.event() for it in await workers.events(run_id)]
        stored = [it for it in found if isinstance(it, ArtifactStored)]

        assert [(it.name, it.step, it.size_bytes) for it in stored] == [("a.txt", "a", 4)]
        assert "the output `b.txt` is not there" in run.message


async def test_the_same_step_over_the_same_files_is_put_back_and_not_run(tmp_path: Path) -> None:
    text = toml(
        step("a", "echo x >> a.ran; cat in.txt > a.txt", 'inputs = ["in.txt"]', 'outputs = ["a.txt"]'),
        step("b", "echo x >> b.ran; cat a.txt a.txt > b.txt", 'outputs = ["b.txt"]', needs="a"),
    )
    (tmp_path / "in.txt").write_text("one")
    async with working(tmp_path, text) as workers:
        await workers.wait_rest(await workers.queue("w"))
        (tmp_path / "a.txt").unlink()
        again = await workers.wait_rest(await workers.queue("w"))
        ran = (tmp_path / "a.ran").read_text()
        (tmp_path / "in.txt").write_text("two")
        changed = await workers.wait_rest(await workers.queue("w"))
        await workers.wait_rest(await workers.queue("w", cache=False))

        assert (ran, (tmp_path / "a.ran").read_text(), (tmp_path / "b.ran").read_text()) == (
            "x\n",
            "x\n" * 3,
            "x\n" * 3,
        )
        assert [again.step_states[name].cache_hit for name in "ab"] == [True, True]
        assert [changed.step_states[name].cache_hit for name in "ab"] == [False, False]
        assert (tmp_path / "b.txt").read_text() == "twotwo"


async def test_a_step_waits_for_its_approval_without_a_worker_and_starts_once_granted(tmp_path: Path) -> None:
    text = toml(step("a", "true"), step("b", "true", 'approval = "deploy?"', needs="a"))
    async with working(tmp_path, text) as workers:
        run_id = await workers.queue("w")
        asked = await workers.wait_type(run_id, "run_paused")
        waiting = await workers.ledger.state(run_id)
        name = waiting.open_approvals[0]
        await workers.execute(run_id, Grant(approval_id=name))
        run = await workers.wait_rest(run_id)

        assert (waiting.worker, waiting.waiting_on, waiting.approvals[name].summary) == (
            "",
            f"approval:{name}",
            "deploy?",
        )
        assert (run.status, run.version > asked.version) == ("completed", True)


async def test_a_step_that_is_denied_stops_the_run_and_never_starts(tmp_path: Path) -> None:
    async with working(tmp_path, toml(step("a", "touch ran", 'approval = "sure?"'))) as workers:
        run_id = await workers.queue("w")
        await workers.wait_type(run_id, "run_paused")
        name = (await workers.ledger.state(run_id)).open_approvals[0]
        await workers.execute(run_id, Deny(approval_id=name))
        run = await workers.ledger.state(run_id)

        assert (run.status, run.reason_code, (tmp_path / "ran").exists()) == ("stopped", "APPROVAL_DENIED", False)


async def test_a_run_waits_for_a_step_that_is_done_by_hand_and_goes_on_after_it(tmp_path: Path) -> None:
    async with working(
        tmp_path, toml(step("a", "true"), step("b", needs="a"), step("c", "true", needs="b"))
    ) as workers:
        run_id = await workers.queue("w")
        await workers.wait_type(run_id, "run_paused")
        waiting = await workers.ledger.state(run_id)
        await workers.execute(run_id, StartStep(step="b"))
        await workers.execute(run_id, CompleteStep(step="b"))
        run = await workers.wait_rest(run_id)

        assert (waiting.waiting_on, waiting.worker) == ("step:b", "")
        assert run.reason_code == "ALL_STEPS_COMPLETED"


async def test_a_steps_own_limit_ends_that_step_and_nobody_else(tmp_path: Path) -> None:
    usage = '{"runfold": {"type": "token_usage", "model": "m", "input_tokens": 900, "output_tokens": 200}}'
    text = toml(
        step("greedy", f"printf \"%s\\n\" '{usage}'; sleep 60", "limits = { tokens = 1000 }"),
        step("other", "until [ -e go ]; do sleep 0.02; done"),
    )
    async with working(tmp_path, text) as workers:
        run_id = await workers.queue("w")
        await workers.wait_type(run_id, "step_failed")
        (tmp_path / "go").touch()
        run = await workers.wait_rest(run_id)

        assert run.step_states["other"].status == "completed"
        assert (run.step_states["greedy"].status, run.step_states["greedy"].tokens) == ("failed", 1_100)
        assert run.step_states["greedy"].error is not None
        assert run.step_states["greedy"].error.code == "TOKEN_LIMIT_EXCEEDED"


async def test_a_cancelled_run_leaves_no_step_behind(tmp_path: Path) -> None:
    async with working(tmp_path, toml(step("a", "sleep 60"), step("b", "sleep 60"))) as workers:
        run_id = await workers.queue("w")
        first = await workers.wait_type(run_id, "turn_started")
        await workers.wait_type(run_id, "turn_started", after=first.position)
        await workers.execute(run_id, Cancel())
        run = await workers.wait_rest(run_id)

        assert (run.status, run.open_turns, run.open_steps) == ("cancelled", (), ())
        assert await statuses(workers, run_id) == {"a": "cancelled", "b": "cancelled"}


async def test_a_driver_that_breaks_ends_a_step_that_is_just_about_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, goes_on = threading.Event(), threading.Event()

    def held(*args: Any, **kwargs: Any) -> Watching:
        begins.set()
        goes_on.wait(PATIENCE_SECONDS)
        return Watching(*args, **kwargs)

    monkeypatch.setattr(stepping, "Watching", held)
    async with working(tmp_path, toml(step("a", "exec sleep 1000"))) as workers:
        await workers.queue("w")
        await asyncio.to_thread(begins.wait, PATIENCE_SECONDS)
        (driving,) = [task for task in asyncio.all_tasks() if "Worker._drive" in repr(task)]
        driving.cancel()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        goes_on.set()
        await asyncio.wait([driving], timeout=PATIENCE_SECONDS)

        assert driving.cancelled()


async def test_the_output_of_steps_at_once_is_kept_whole_and_proved(tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5; do echo $RUNFOLD_STEP $i; sleep 0.01; done"
    async with working(tmp_path, toml(step("a", script), step("b", script))) as workers:
        run_id = await workers.queue("w")
        await workers.wait_rest(run_id)
        output = (workers.data / "runs" / run_id / "output.log").read_text().splitlines()
        last = (await workers.log.bounds()).last
        with closing(open_reader(workers.data)) as reader:
            faults = list(Attachments(reader, workers.data).faults(upto=last))

    groups = [output[:5], output[5:]]
    assert sorted(groups) == [[f"{name} {number}" for number in range(1, 6)] for name in "ab"]
    assert faults == []


async def test_the_output_of_steps_that_leaves_no_room_on_the_disk_fails_them_and_the_run_says_so(
    tmp_path: Path,
) -> None:
    # What a step wrote is copied to the end of the run's output, which needs as much room once more.
    disk_bytes = output_file.RESERVE_BYTES + 24 * 1024 * 1024
    many = "head -c 20000000 /dev/zero"
    with small_disk(tmp_path / "data", disk_bytes):
        async with working(tmp_path, toml(step("a", many), step("b", "echo b", needs="a"))) as workers:
            run_id = await workers.queue("w")
            run = await workers.wait_rest(run_id)
            kept = (workers.data / "runs" / run_id / "output.log").stat().st_size
            free = shutil.disk_usage(workers.data).free
            with closing(open_reader(workers.data)) as reader:
                faults = list(Attachments(reader, workers.data).faults(upto=(await workers.log.bounds()).last))
            other = await workers.wait_rest(await workers.queue("w"))

    error = run.error
    assert (run.status, error and error.code) == ("failed", "STEP_FAILED")
    assert error is not None
    assert "could not be kept: no space left on device" in error.message
    assert 0 < kept < 20_000_000
    assert free >= output_file.RESERVE_BYTES
    assert (faults, other.status) == ([], "failed")

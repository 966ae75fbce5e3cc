"""Queued runs are driven by exactly one worker, turn after turn, and can always be paused, resumed and cancelled."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

import runner.worker
from eventstore.boot import boot_id
from eventstore.contract import EventLog, Page
from eventstore.ledger import Executed, Ledger
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Cancel, Claim, Command, Grant, LoseClaim, Pause, Resume
from runfold.errors import Unavailable
from runfold.events import (
    LogUpdated,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunStarted,
    RunStopped,
    TurnCancelled,
    TurnStarted,
)
from runner import machine
from runner.claims import Claims
from runner.launch import order_of_run
from runner.turns.process import keepers_of
from tests.working import PATIENCE_SECONDS, shell, working

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_log")]

DETECTED = "COMPLETION_DETECTED"
SAID = "ALL TASKS COMPLETE"
WORK, HELLO = (Path(__file__).parent / "recordings" / "codex" / f"{name}.jsonl" for name in ("work", "hello"))
"""What codex printed in sessions of ours."""


async def test_a_queued_run_is_claimed_started_and_completed(tmp_path: Path) -> None:
    async with working(tmp_path, shell("echo hello")) as worker:
        run_id = await worker.queue("w")

        run = await worker.wait_rest(run_id)

        started = next(r.event() for r in await worker.events(run_id) if r.type == "run_started")

        assert (run.status, run.reason_code, run.pid) == ("completed", "EXIT_ZERO", None)
        assert isinstance(started, RunStarted)
        assert machine.is_process_alive(started.pid or 0, started.pid_started_at or "")
        assert (started.pid, started.boot_id) == (os.getpid(), boot_id())
        assert await worker.types(run_id) == [
            "run_queued",
            "run_claimed",
            "run_started",
            "turn_started",
            "turn_completed",
            "run_completed",
        ]
        assert (tmp_path / "data" / "runs" / run_id / "output.log").read_text() == "hello\n"


async def test_runs_that_waited_before_the_worker_came_are_driven_too(tmp_path: Path) -> None:
    async with working(tmp_path, shell("true"), workers=0) as nobody:
        run_ids = [await nobody.queue("w") for _ in range(5)]

    async with working(tmp_path, shell("true")) as worker:
        for run_id in run_ids:
            assert (await worker.wait_rest(run_id)).status == "completed"


async def test_of_several_workers_exactly_one_drives_a_run(tmp_path: Path) -> None:
    async with working(tmp_path, shell("echo x >> marks-$RUNFOLD_RUN_ID"), workers=4) as workers:
        run_ids = [await workers.queue("w") for _ in range(12)]
        for run_id in run_ids:
            await workers.wait_rest(run_id)

        assert [(tmp_path / f"marks-{run_id}").read_text() for run_id in run_ids] == ["x\n"] * 12


async def test_each_turn_gets_its_prompt_on_standard_input_with_files_read_anew(tmp_path: Path) -> None:
    script = "cat >> seen; echo; echo note >> work.log"
    more = 'prompt = "turn {turn}: {file:work.log}|"\nmax_turns = 3'
    async with working(tmp_path, shell(script, more=more)) as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)
        started = [r.event() for r in await worker.events(run_id) if r.type == "turn_started"]

        assert (tmp_path / "seen").read_text() == (
            "turn 1: (work.log is not there yet)|turn 2: note\n|turn 3: note\nnote\n|"
        )
        assert (run.status, run.turns) == ("completed", 3)
        assert len({event.prompt_sha256 for event in started if isinstance(event, TurnStarted)}) == 3


async def test_a_callers_prompt_is_given_word_for_word(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    async with working(tmp_path, shell("cat > seen")) as worker:
        run_id = await worker.queue("w", prompt="read {file:secret} in {turn}")
        await worker.wait_rest(run_id)

        assert (tmp_path / "seen").read_text() == "read {file:secret} in {turn}"


@pytest.mark.parametrize(
    ("script", "more", "reason", "proof", "turns"),
    [
        ("test -e one && echo ALL DONE; touch one", 'pattern = "ALL DO.E$"', DETECTED, ("pattern", "ALL DONE"), 2),
        ("cat {hello}; test -e one && cat {work}; touch one", 'pattern = "^ALL T"', DETECTED, ("pattern", SAID), 2),
        ("test -e one && touch STOP; touch one", 'stop_file = "STOP"', "STOP_FILE", ("stop_file", "STOP"), 2),
        ("test -e one && exit 7; touch one", "exit_code = 7", DETECTED, ("exit_code", "7"), 2),
        ("test -e one && cat {work}; touch one", "format_end = true", DETECTED, ("format_end", "codex"), 2),
        ("true", 'pattern = "never"', "MAX_TURNS_REACHED", None, 4),
    ],
)  # fmt: skip
async def test_a_loop_ends_at_the_first_rule_that_is_fulfilled(
    tmp_path: Path, script: str, more: str, reason: str, proof: tuple[str, str] | None, turns: int
) -> None:
    script = script.format(work=WORK, hello=HELLO)
    async with working(tmp_path, shell(script, more=f"max_turns = 4\n[workflow.w.completion]\n{more}")) as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)
        ended = (await worker.events(run_id))[-1].event()

        assert (run.reason_code, run.turns) == (reason, turns)
        assert isinstance(ended, RunCompleted | RunStopped)
        found = getattr(ended, "completion", None)
        assert (None if found is None else (found.rule, found.line)) == proof


async def test_a_pause_waits_for_the_turns_end_and_a_resume_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    async with working(tmp_path, shell("cat gate > /dev/null", more="max_turns = 2")) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "turn_started")

        await worker.execute(run_id, Pause())
        await asyncio.to_thread((tmp_path / "gate").write_text, "go")
        paused = await worker.wait_type(run_id, "run_paused")
        resting = await worker.ledger.state(run_id)
        await worker.execute(run_id, Resume())
        await worker.wait_type(run_id, "turn_started", after=paused.position)
        await asyncio.to_thread((tmp_path / "gate").write_text, "go")
        run = await worker.wait_rest(run_id)

        assert (resting.status, resting.worker, resting.turn_open) == ("paused", "", False)
        assert (run.status, run.turns, run.claim) == ("completed", 2, 2)


def until_stopped(pid: int) -> None:
    """The kernel tells nobody but a parent; the test's own time limit ends a wait in vain."""
    while not machine.is_process_stopped(pid):
        pass


async def test_a_run_of_one_turn_is_paused_where_it_is_and_goes_on_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    async with working(tmp_path, shell("echo $$ > pid; echo up; cat gate; echo on")) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "subprocess_output")

        await worker.execute(run_id, Pause())
        await worker.wait_type(run_id, "run_paused")
        await asyncio.to_thread(until_stopped, int((tmp_path / "pid").read_text()))
        await worker.execute(run_id, Resume())
        await asyncio.to_thread((tmp_path / "gate").write_text, "go ")
        run = await worker.wait_rest(run_id)

        assert (run.status, run.turns, run.claim) == ("completed", 1, 1)


@pytest.mark.parametrize("when", ["queued", "running", "pausing", "paused"])
async def test_a_run_is_cancelled_from_wherever_it_stands(tmp_path: Path, when: str) -> None:
    toml = shell("sleep 1000", more="max_turns = 2")
    async with working(tmp_path, toml, workers=0 if when == "queued" else 1) as worker:
        run_id = await worker.queue("w")
        if when != "queued":
            await worker.wait_type(run_id, "turn_started")
        if when in ("pausing", "paused"):
            await worker.execute(run_id, Pause(now=when == "paused"))
        if when == "paused":
            await worker.wait_type(run_id, "run_paused")

        await worker.execute(run_id, Cancel())
        run = await worker.wait_rest(run_id)
        again = await worker.execute(run_id, Cancel())

        assert (run.status, run.turn_open, again.version) == ("cancelled", False, run.version)


async def test_an_agent_that_answers_term_with_success_is_still_cancelled(tmp_path: Path) -> None:
    toml = shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done", more="max_turns = 2")
    async with working(tmp_path, toml) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "subprocess_output")

        await worker.execute(run_id, Cancel())
        run = await worker.wait_rest(run_id)
        ended = [r.event() for r in await worker.events(run_id) if r.type == "turn_cancelled"]

        assert run.status == "cancelled"
        assert [event.exit_code for event in ended if isinstance(event, TurnCancelled)] == [0]


async def test_a_cancel_leaves_a_receipt_of_what_it_took(tmp_path: Path) -> None:
    toml = shell("trap '' TERM; echo up; while :; do sleep 0.01; done")
    async with working(tmp_path, toml) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "subprocess_output")

        await worker.execute(run_id, Cancel())
        await worker.wait_rest(run_id)
        cancelled = (await worker.events(run_id))[-1].event()

        assert isinstance(cancelled, RunCancelled)
        assert cancelled.receipt is not None
        assert cancelled.receipt.signals == ("SIGTERM", "SIGKILL")
        assert cancelled.receipt.survivors == ()


async def test_a_turn_that_hangs_without_a_word_times_out(tmp_path: Path) -> None:
    async with working(tmp_path, shell("sleep 1000", more="turn_timeout_seconds = 0.2")) as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)

        assert (run.status, run.reason_code) == ("failed", "TIMED_OUT")
        assert "turn_failed" in await worker.types(run_id)


async def test_a_failed_turn_is_tried_again_as_often_as_the_workflow_says(tmp_path: Path) -> None:
    script = "n=$(cat n || echo 0); echo $((n+1)) > n; test $n -ge 2"
    async with working(tmp_path, shell(script, more="turn_retries = 2")) as worker:
        run = await worker.wait_rest(await worker.queue("w"))

        assert (run.status, run.turns) == ("completed", 3)


async def test_a_workspace_that_is_not_there_fails_the_run_with_a_reason(tmp_path: Path) -> None:
    async with working(tmp_path, shell("true", more='workspace = "nowhere"')) as worker:
        run_id = await worker.queue("w")
        await worker.wait_rest(run_id)
        failed = (await worker.events(run_id))[-1].event()

        assert isinstance(failed, RunFailed)
        assert failed.reason_code == "SYS_LAUNCH_FAILED"
        assert "nowhere" in failed.error.message


async def test_only_listed_variables_reach_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LET_THROUGH", "yes")
    monkeypatch.setenv("KEPT_BACK", "no")
    async with working(tmp_path, shell("env > seen", more='environment = ["LET_THROUGH"]')) as worker:
        await worker.wait_rest(await worker.queue("w"))
        names = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}

        assert {"LET_THROUGH", "PATH", "RUNFOLD_RUN_ID"} <= names
        assert "KEPT_BACK" not in names


async def test_a_worker_takes_a_run_when_it_can_say_again_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Presence:
        """Of servers that have no leader at first, and then each other time."""

        asked = 0

        async def beat(self, name: str) -> None:
            self.asked += 1
            if self.asked == 1 or self.asked % 2 == 0:
                raise Unavailable("who of the workers lives cannot be said")

    async with working(tmp_path, shell("true"), workers=0) as nobody:
        run_id = await nobody.queue("w")
    opened = Claims.open

    async def opened_with(data: Path) -> Claims:
        return await opened(data, presence=cast("Any", Presence()))

    monkeypatch.setattr(Claims, "open", opened_with)
    async with working(tmp_path, shell("true")) as worker:
        run = await worker.wait_rest(run_id)

    assert (run.status, run.claim) == ("completed", 1)


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_claim_that_was_won_unheard_is_driven_by_its_worker_unless_it_was_lost_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    execute = Ledger.execute
    tries: list[str] = []

    async def unheard(self: Ledger, run_id: str, command: Command, **more: Any) -> Executed:
        executed = await execute(self, run_id, command, **more)
        if isinstance(command, Claim):
            tries.append(run_id)
            if len(tries) == 1:
                if is_lost:
                    await execute(self, run_id, LoseClaim(claim=1), actor="system", tenant="default")
                raise Unavailable("the log's servers did not answer")
        return executed

    monkeypatch.setattr(Ledger, "execute", unheard)
    async with working(tmp_path, shell("true")) as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)
        types = await worker.types(run_id)

    assert (run.status, run.claim) == ("completed", 2 if is_lost else 1)
    assert types.count("run_claimed") == run.claim
    assert types.count("turn_started") == 1


@pytest.mark.parametrize(
    ("is_won", "on_lost", "status", "claim"),
    [(True, "resume", "queued", 1), (True, "fail", "stopped", 1), (False, "fail", "queued", 0)],
)
async def test_a_worker_that_stops_gives_back_a_claim_that_it_won_unheard_and_takes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_won: bool, on_lost: str, status: str, claim: int
) -> None:
    execute = Ledger.execute
    told, stops = list[str](), list[asyncio.Event]()

    async def unheard(self: Ledger, run_id: str, command: Command, **more: Any) -> Executed:
        if not isinstance(command, Claim) or told:
            return await execute(self, run_id, command, **more)
        told.append(run_id)
        stops[0].set()
        if is_won:
            await execute(self, run_id, command, **more)
        raise Unavailable("the log's servers did not answer")

    monkeypatch.setattr(Ledger, "execute", unheard)
    async with working(tmp_path, shell("true", more=f'on_lost = "{on_lost}"')) as worker:
        stops.append(worker.stop)
        run_id = await worker.queue("w")
        await worker.stop.wait()
    async with working(tmp_path, shell("true"), workers=0) as later:
        run = await later.ledger.state(run_id)

    assert (run.status, run.worker, run.claim) == (status, "", claim)


async def test_a_run_that_is_taken_is_driven_when_its_order_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    async def read_late(log: EventLog, run_id: str) -> RunQueued:
        reads.append(run_id)
        if len(reads) == 1:
            raise Unavailable("the log cannot be read now")
        return await order_of_run(log, run_id)

    monkeypatch.setattr(runner.worker, "order_of_run", read_late)
    async with working(tmp_path, shell("true")) as worker:
        run = await worker.wait_rest(await worker.queue("w"))

    assert (run.status, run.claim, len(reads)) == ("completed", 1, 2)


async def test_a_run_whose_stream_the_disk_does_not_give_back_is_given_up_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SqliteLog.read
    broken = list[str]()

    async def read_of(self: SqliteLog, *, stream: str | None = None, **asked: Any) -> AsyncGenerator[Page]:
        if stream in broken:
            raise sqlite3.OperationalError("disk I/O error")
        async for page in read(self, stream=stream, **asked):
            yield page

    monkeypatch.setattr(SqliteLog, "read", read_of)
    async with working(tmp_path, shell("sleep 1000") + shell("true", name="other")) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "turn_started")
        broken.append(run_id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.to_thread(keepers_of, run_id):
                await asyncio.sleep(0)
        other = await worker.wait_rest(await worker.queue("other"))
        later = await worker.wait_rest(await worker.queue("other"))

    assert (other.status, later.status) == ("completed", "completed")


@pytest.mark.parametrize(("on_lost", "status"), [("resume", "queued"), ("fail", "stopped")])
async def test_a_worker_that_is_told_to_stop_hands_its_run_over_or_stops_it(
    tmp_path: Path, on_lost: str, status: str
) -> None:
    async with working(tmp_path, shell("sleep 1000", more=f'on_lost = "{on_lost}"')) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "turn_started")
        worker.stop.set()
    async with working(tmp_path, shell("true"), workers=0) as later:
        run = await later.ledger.state(run_id)

    assert (run.status, run.worker, run.turn_open) == (status, "", False)


async def test_no_more_runs_than_slots_are_driven_at_once(tmp_path: Path) -> None:
    script = "mkdir slot-$RUNFOLD_RUN_ID; ls -d slot-* | wc -l >> counts; sleep 0.05; rmdir slot-$RUNFOLD_RUN_ID"
    async with working(tmp_path, shell(script), slots=2) as worker:
        for run_id in [await worker.queue("w") for _ in range(8)]:
            await worker.wait_rest(run_id)

        assert max(int(line) for line in (tmp_path / "counts").read_text().split()) <= 2


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("cat {recording}", "completed", "EXIT_ZERO"),
        ("head -n 3 {recording}", "failed", "NO_TERMINAL_EVENT"),
        ("cat {recording}; exit 3", "failed", "EXIT_NONZERO"),
    ],
)
async def test_an_agents_turn_succeeds_with_exit_0_and_its_own_word(
    tmp_path: Path, script: str, status: str, reason: str
) -> None:
    toml = shell(script.format(recording=WORK), more='format = "codex"\nmodel = "gpt-5"')
    async with working(tmp_path, toml) as worker:
        run = await worker.wait_rest(await worker.queue("w"))

        assert (run.status, run.reason_code) == (status, reason)


async def test_an_agents_final_message_is_kept_before_the_run_ends(tmp_path: Path) -> None:
    async with working(tmp_path, shell(f"cat {WORK}", more='format = "codex"')) as worker:
        run_id = await worker.queue("w")
        await worker.wait_rest(run_id)
        types = await worker.types(run_id)

        assert types[-2:] == ["artifact_stored", "run_completed"]
        assert (worker.data / "runs" / run_id / "response.md").read_text()


async def test_a_turn_that_was_cut_short_is_none_of_the_turns_that_were_ordered(tmp_path: Path) -> None:
    (tmp_path / "spent").write_text('{"runfold": {"type": "token_usage", "input_tokens": 9}}\n')
    script = "echo turn >> turns; test -e again && exit 0; touch again; cat spent; exec sleep 60"
    more = 'max_turns = 2\nlimits = {tokens = {max = 5, on_exceed = "ask"}}'
    async with working(tmp_path, shell(script, more=more)) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "run_paused")
        await worker.execute(run_id, Grant(approval_id="a1", limits={"tokens": 100}))
        run = await worker.wait_rest(run_id)

    assert (run.status, run.turns, run.turns_cut) == ("completed", 3, 1)
    assert (tmp_path / "turns").read_text() == "turn\n" * 3


async def test_what_the_disk_refuses_fails_its_run_alone_and_the_worker_goes_on(tmp_path: Path) -> None:
    async with working(tmp_path, shell(f"cat {WORK}", more='format = "codex"'), workers=0) as nobody:
        run_id = await nobody.queue("w")
    (tmp_path / "data" / "runs" / run_id / "response.md").mkdir(parents=True)
    async with working(tmp_path, shell(f"cat {WORK}", more='format = "codex"')) as worker:
        failed = await worker.wait_rest(run_id)
        other = await worker.wait_rest(await worker.queue("w"))

    assert (failed.status, failed.reason_code, other.status) == ("failed", "SYS_WRITE_ERROR", "completed")
    assert failed.error is not None
    assert failed.error.message.startswith("is a directory: ")


async def test_what_a_watched_log_gains_is_told_also_in_the_turns_last_moment(tmp_path: Path) -> None:
    (tmp_path / "work.log").write_text("old\n")
    async with working(tmp_path, shell("echo new >> work.log", more='watch_logs = ["work.log"]')) as worker:
        run_id = await worker.queue("w")
        await worker.wait_rest(run_id)
        told = [r.event() for r in await worker.events(run_id) if r.type == "log_updated"]

        assert [(e.path, e.bytes_added, e.tail) for e in told if isinstance(e, LogUpdated)] == [
            ("work.log", 4, "new\n")
        ]

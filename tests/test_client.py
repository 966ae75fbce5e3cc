"""A program that reports its own run, against real servers, the real tool, and with neither."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runfold
from cli.settings import load_settings
from deploy.loopback import free_port
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.client import ways
from runfold.client.place import data_folder
from runfold.commands import Deny, Grant
from runfold.errors import InvalidEvent, NotAllowed, TooLarge, Unauthorized
from tests.ledgers import stored
from tests.terminal import environment, first_line, read, started
from tests.terminal import runfold as tool

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, where the client of this process reports to."""
    for name in [name for name in os.environ if name.startswith("RUNFOLD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNFOLD_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def types(data: Path, run_id: str) -> list[str]:
    return [recorded.type for recorded in stored(data, run_id)]


def told(data: Path, run_id: str) -> Any:
    return read(data, "status", run_id)


def without_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where only the client is installed."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")


def small_run(**more: Any) -> str:
    with runfold.run("nba", steps={"data": [], "analysis": ["data"]}, **more) as run:
        with run.step("data", skill="collect"):
            run.usage(model="m", input_tokens=900, output_tokens=40, cost_usd=0.0015)
        with run.step("analysis") as step:
            step.output = {"rows": 3}
        run.note("fine")
        run.artifact("table.csv", b"a,b\n1,2\n", media_type="text/csv")
        run.message = "all told"
    return run.id


def check_small_run(data: Path, run_id: str) -> None:
    snapshot = told(data, run_id)
    names = types(data, run_id)
    assert (snapshot["status"], snapshot["reason_code"]) == ("completed", "ALL_STEPS_COMPLETED")
    assert snapshot["message"] == "all told"
    assert snapshot["stats"]["cost_usd"] == 0.0015
    assert names.count("step_completed") == 2
    assert sorted(set(names)) == [
        "artifact_stored", "note_added", "run_completed", "run_queued", "run_started", "step_completed", "step_started",
        "token_usage",
    ]  # fmt: skip
    assert tool(data, "verify").returncode == 0


def test_a_program_reports_its_run_to_the_server(data: Path) -> None:
    with started(data, "up", "--port", "0") as server:
        first_line(server)

        run_id = small_run()

        check_small_run(data, run_id)
    assert stored(data, run_id)[0].actor == "user:admin"


def test_where_no_server_answers_the_installed_tool_records_the_run(data: Path) -> None:
    run_id = small_run()

    check_small_run(data, run_id)
    assert not list(data.glob("spool/*"))


def test_without_server_and_tool_the_run_is_kept_and_taken_in_by_the_next_command_that_writes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        without_tool(patched)
        run_id = small_run()
    spool = data / "spool" / f"{run_id}.jsonl"
    assert spool.stat().st_mode & 0o777 == 0o600

    done = tool(data, "recover")

    assert f"run {run_id} is recorded now" in done.stderr
    check_small_run(data, run_id)
    assert not list(data.glob("spool/*.jsonl"))
    assert not list(data.glob("spool/files/*"))


def test_a_spool_that_is_taken_in_twice_is_there_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        without_tool(patched)
        with runfold.run("twice") as run:
            for number in range(10):
                run.say(f"line {number}")
    spool = data / "spool" / f"{run.id}.jsonl"
    content = spool.read_bytes()
    tool(data, "recover")
    first = types(data, run.id)

    spool.write_bytes(content)
    tool(data, "recover")

    assert types(data, run.id) == first
    assert first.count("message") == 10


def test_a_program_that_died_while_nobody_was_there_is_told_as_lost(data: Path) -> None:
    program = (
        "import os, sys, runfold\n"
        "sys.executable, os.environ['PATH'] = '/nowhere/python', '/nowhere'\n"
        "with runfold.run('dies') as run:\n"
        "    run.say('hello'); run.flush(); print(run.id, flush=True); os.kill(os.getpid(), 9)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], env=environment(data), capture_output=True, text=True)

    tool(data, "recover")

    snapshot = told(data, died.stdout.strip())
    assert (snapshot["status"], snapshot["reason_code"]) == ("failed", "WORKER_LOST")
    assert "message" in types(data, snapshot["id"])


def test_a_server_killed_and_back_in_the_middle_loses_nothing_and_doubles_nothing(data: Path) -> None:
    said = 0
    with runfold.run("long") as run:
        for _ in range(3):
            with started(data, "up", "--port", "0") as server:
                first_line(server)
                # The program comes back to the server by itself: what it says then is of the server's actor.
                while stored(data, run.id)[-1].actor != "user:admin":
                    run.say(str(said))
                    run.flush()
                    said += 1
                for _ in range(2_000):
                    run.say(str(said))
                    said += 1
                os.kill(server.pid, signal.SIGKILL)

    texts = [recorded.event().text for recorded in stored(data, run.id) if recorded.type == "message"]  # type: ignore[union-attr]
    actors = {recorded.actor for recorded in stored(data, run.id)}
    assert texts == [str(number) for number in range(said)]
    assert len(actors) == 2  # The tool took over each time.
    assert told(data, run.id)["status"] == "completed"
    assert tool(data, "verify").returncode == 0


def test_ten_thousand_units_of_two_threads_are_all_counted(data: Path) -> None:
    with runfold.run("sprites", unit_name="frame", units_total=10_000) as run:

        def work(first: int) -> None:
            for number in range(first, 10_000, 2):
                with run.unit(number):
                    pass

        threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    snapshot = told(data, run.id)
    assert snapshot["reason_code"] == "ALL_FRAMES_APPROVED"
    assert snapshot["report"]["metrics"]["units_completed"] == 10_000


def test_an_exception_fails_the_step_and_the_run_with_its_trace_and_without_secrets(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")

    with pytest.raises(ValueError, match="very-secret-value"), runfold.run("breaks") as run, run.step("first"):
        raise ValueError("no very-secret-value here")

    snapshot = told(data, run.id)
    failed = next(recorded for recorded in stored(data, run.id) if recorded.type == "step_failed")
    error = json.loads(failed.data or b"")["error"]
    assert (snapshot["status"], snapshot["reason_code"]) == ("failed", "STEP_FAILED")
    assert error["message"] == "ValueError: no [redacted] here"
    assert "Traceback (most recent call last)" in error["stack_trace"]
    assert b"very-secret-value" not in b"".join(recorded.data or b"" for recorded in stored(data, run.id))


def test_an_exception_with_a_reason_code_of_its_own_keeps_it(data: Path) -> None:
    class PackerFailed(Exception):
        code = "DEP_TEXTUREPACKER_FAIL"

    with pytest.raises(PackerFailed), runfold.run("packs") as run:
        raise PackerFailed("exit 3")

    assert told(data, run.id)["reason_code"] == "DEP_TEXTUREPACKER_FAIL"


def test_a_keyboard_interrupt_stops_the_run(data: Path) -> None:
    with pytest.raises(KeyboardInterrupt), runfold.run("typed") as run, run.step("first"):
        raise KeyboardInterrupt

    snapshot = told(data, run.id)
    assert (snapshot["status"], snapshot["reason_code"]) == ("stopped", "USER_INTERRUPT")
    assert types(data, run.id)[-2:] == ["step_cancelled", "run_stopped"]


def test_a_step_whose_needs_are_unmet_does_not_begin(data: Path) -> None:
    with runfold.run("graph", steps={"a": [], "b": ["a"]}) as run:
        with pytest.raises(NotAllowed, match="it needs `a`"), run.step("b"):
            pytest.fail("it began")
        with run.step("a"), pytest.raises(NotAllowed, match="is running"), run.step("a"):
            pytest.fail("it began twice")

    assert types(data, run.id).count("step_started") == 1


def work_for_ever(run: runfold.Run, *first: Callable[[], object]) -> None:
    for act in first:
        act()
    while True:
        with run.unit("one"):
            run.usage(model="m", cost_usd=0.004)
        # At the pace of its recording: ten thousand units ahead of it would only have to be written too.
        run.flush()


@pytest.mark.parametrize("with_server", [True, False], ids=["server", "tool"])
def test_a_cancel_reaches_the_program_and_is_answered_by_it(data: Path, with_server: bool) -> None:
    with started(data, *(("up", "--port", "0") if with_server else ("doctor",))) as server:
        first_line(server)
        with pytest.raises(runfold.Cancelled), runfold.run("endless") as run:
            work_for_ever(run, lambda: tool(data, "cancel", run.id))

        assert told(data, run.id)["status"] == "cancelled"


def test_a_pause_holds_the_program_until_it_is_resumed(data: Path) -> None:
    with runfold.run("patient") as run:
        tool(data, "pause", run.id)
        resumed = threading.Thread(target=resume_once_paused, args=(data, run.id))
        resumed.start()
        while "run_paused" not in types(data, run.id):
            run.say("before")
            run.check()
        run.say("after")
        resumed.join()

    names = types(data, run.id)
    assert "run_resumed" in names
    assert names[-1] == "run_completed"


def resume_once_paused(data: Path, run_id: str) -> None:
    while told(data, run_id)["status"] != "paused":
        pass
    tool(data, "resume", run_id)


def test_a_limit_stops_the_program(data: Path) -> None:
    with pytest.raises(runfold.Stopped), runfold.run("dear", limits={"cost": 0.01}) as run:
        work_for_ever(run)

    snapshot = told(data, run.id)
    assert (snapshot["status"], snapshot["reason_code"]) == ("stopped", "COST_LIMIT_EXCEEDED")


def answer_questions(data: Path, run_id: str, *commands: Grant | Deny) -> None:
    """As a person would, from another process, once each question is there."""
    for command in commands:
        answer_question(data, run_id, command)


def answer_question(data: Path, run_id: str, command: Grant | Deny) -> None:

    async def execute() -> None:
        log = await SqliteLog.open(data)
        try:
            await Ledger(log).execute(run_id, command, actor="user:boss", tenant="default")
        finally:
            await log.close()

    while types(data, run_id).count("approval_requested") < int(command.approval_id[1:]):
        pass
    asyncio.run(execute())


@pytest.mark.parametrize("with_server", [True, False], ids=["server", "tool"])
def test_a_question_waits_for_its_answer_and_a_no_stops_the_program(data: Path, with_server: bool) -> None:
    with started(data, *(("up", "--port", "0") if with_server else ("doctor",))) as server:
        first_line(server)
        with pytest.raises(runfold.Stopped), runfold.run("careful") as run:
            ask_twice(data, run)

    names = types(data, run.id)
    assert [name for name in names if name.startswith("approval_")] == [
        "approval_requested", "approval_granted", "approval_requested", "approval_denied",
    ]  # fmt: skip
    assert names.count("message") == 1
    assert told(data, run.id)["reason_code"] == "APPROVAL_DENIED"


def ask_twice(data: Path, run: runfold.Run) -> None:
    answers = (Grant(approval_id="a1"), Deny(approval_id="a2"))
    person = threading.Thread(target=answer_questions, args=(data, run.id, *answers))
    person.start()
    try:
        run.ask("Publish it?", amount_usd=2.5)
        run.say("published")
        run.ask("Again?")
    finally:
        person.join()


def test_a_coroutine_reports_like_a_function(data: Path) -> None:
    async def program() -> str:
        async with runfold.run("nba", steps=["a", "b"]) as run, asyncio.TaskGroup() as group:
            group.create_task(step(run, "a"))
            group.create_task(step(run, "b"))
        return run.id

    async def step(run: runfold.Run, name: str) -> None:
        async with run.step(name):
            await run.acheck()

    run_id = asyncio.run(program())

    assert told(data, run_id)["reason_code"] == "ALL_STEPS_COMPLETED"


def test_what_no_log_would_take_is_refused_where_it_is_said(data: Path) -> None:
    with runfold.run("strict") as run:
        with pytest.raises(InvalidEvent, match="not a reporter's"):
            run.event("run_completed", reason_code="REPORTED")
        with pytest.raises(InvalidEvent, match="file_written"):
            run.event("file_written", path=3)
        with pytest.raises(TooLarge):
            run.say("x" * 600_000)
        run.event("my_own_thing", anything=[1, 2])

    assert types(data, run.id) == ["run_queued", "run_started", "telemetry", "run_completed"]


def test_a_wrong_token_is_said_before_anything_is_done(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(data, "up", "--port", "0") as server:
        monkeypatch.setenv("RUNFOLD_URL", first_line(server).partition("/login")[0])
        monkeypatch.setenv("RUNFOLD_TOKEN", "wrong")

        with pytest.raises(Unauthorized), runfold.run("refused"):
            pytest.fail("it was opened")


def test_what_was_said_while_a_named_server_was_away_is_given_to_it_when_it_is_back(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "PATIENCE_SECONDS", 0.1)
    with started(data, "up", "--port", str(free_port())) as server:
        url = first_line(server).partition("/login")[0]
    monkeypatch.setenv("RUNFOLD_URL", url)

    with runfold.run("away") as run:
        run.say("nobody hears")
        run.flush()
        assert list(data.glob("spool/*.jsonl"))
        with started(data, "up", "--port", url.rpartition(":")[2]) as server:
            first_line(server)
            while list(data.glob("spool/*.jsonl")):
                run.check()
            run.say("now it does")
            run.flush()

            assert types(data, run.id).count("message") == 2
            monkeypatch.delenv("RUNFOLD_URL")


def test_what_was_kept_for_a_named_server_is_given_to_it_by_the_next_run_with_its_ids(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "PATIENCE_SECONDS", 0.1)
    elsewhere = tmp_path / "elsewhere"
    with started(elsewhere, "up", "--port", str(free_port())) as server:
        monkeypatch.setenv("RUNFOLD_URL", first_line(server).partition("/login")[0])
    port = os.environ["RUNFOLD_URL"].rpartition(":")[2]
    monkeypatch.setenv("RUNFOLD_TOKEN", (elsewhere / "token").read_text().strip())
    left = small_run()
    (spool,) = data.glob("spool/*.jsonl")
    content = spool.read_bytes()
    kept = json.loads(content.splitlines()[2])["body"]["events"][0]["id"]

    with started(elsewhere, "up", "--port", port) as server:
        first_line(server)
        with runfold.run("next"):
            pass
        assert not list(data.glob("spool/*.jsonl"))
        first = stored(elsewhere, left)
        spool.write_bytes(content)
        with runfold.run("once more"):
            pass
        assert stored(elsewhere, left) == first

    assert kept in [recorded.id for recorded in first]
    assert not list(data.glob("spool/*.jsonl"))
    for name in ("RUNFOLD_URL", "RUNFOLD_TOKEN"):
        monkeypatch.delenv(name)
    check_small_run(elsewhere, left)


def test_the_client_finds_the_folder_that_the_tool_finds(data: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    plain = tmp_path / "plain" / "inside"
    plain.mkdir(parents=True)
    named.mkdir()
    (named / "runfold.toml").write_text('[settings]\ndata = "kept"\n')
    (tmp_path / "plain" / "runfold.toml").write_text("")
    home = {"HOME": os.environ["HOME"]}

    for folder, environ in (
        (named, {}),
        (plain, {}),
        (tmp_path, {"RUNFOLD_DATA": "elsewhere"}),
        (Path("/"), home),
    ):
        assert data_folder(environ=environ, folder=folder) == load_settings({}, environ=environ, folder=folder).data

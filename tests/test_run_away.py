"""With RUNFOLD_URL a workflow is started by the server, and a command is driven here and reported there."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.leaving import served
from tests.terminal import ROOT, environment, first_line, read, runfold
from tests.working import PATIENCE_SECONDS

pytestmark = pytest.mark.slow
TOML = """
[workflow.greet]
command = ["sh", "-c", 'echo hello {name}; exit {code}']
[workflow.greet.parameters]
name = {default = "you"}
code = {type = "integer", default = 0}
[workflow.loop]
command = ["cat"]
max_turns = 2
"""
# Prints, then waits to be ended; ends well where it is asked to.
WAITS = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, Any]]:
    """A server with a folder of its own: how to reach it from elsewhere."""
    folder = tmp_path_factory.mktemp("there")
    (folder / "runfold.toml").write_text(TOML)
    with served(folder):
        lock = json.loads((folder / "data" / "server.lock").read_text())
        yield {"RUNFOLD_URL": lock["url"], "RUNFOLD_TOKEN": (folder / "data" / "token").read_text().strip()}


def newest(data: Path, there: dict[str, Any]) -> Any:
    return read(data, "status", "@last", **there)


def types(data: Path, there: dict[str, Any]) -> list[str]:
    return [item["type"] for item in read(data, "events", "@last", **there)["items"]]


def test_a_workflow_is_started_by_the_server_and_followed_to_its_end(tmp_path: Path, there: dict[str, Any]) -> None:
    done = runfold(tmp_path, "run", "--workflow", "greet", "--param", "name=Ann", **there)
    run = newest(tmp_path, there)

    assert (done.returncode, done.stdout) == (0, "hello Ann\n"), done.stderr
    assert (run["driver"], run["workflow"], run["status"]) == ("queue", "greet", "completed")
    assert not (tmp_path / "log.db").exists()


def test_the_exit_code_says_how_a_workflow_ended_there(tmp_path: Path, there: dict[str, Any]) -> None:
    failed = runfold(tmp_path, "run", "--workflow", "greet", "--param", "code=3", **there)
    unknown = runfold(tmp_path, "run", "--workflow", "grate", **there)

    assert failed.returncode == 1
    assert (unknown.returncode, "there is no workflow `grate`" in unknown.stderr) == (1, True)


def test_a_loop_gets_its_prompt_and_can_be_left_to_the_server(tmp_path: Path, there: dict[str, Any]) -> None:
    words = ("run", "--workflow", "loop", "--prompt", "go\n", "--detach")

    run_id = runfold(tmp_path, *words, **there).stdout.strip()
    waited = runfold(tmp_path, "wait", run_id, **there)

    assert waited.returncode == 0
    assert runfold(tmp_path, "logs", run_id, **there).stdout == "go\ngo\n"


def test_a_detached_command_prints_the_id_of_its_run_there_and_goes_on_alone(
    tmp_path: Path, there: dict[str, Any]
) -> None:
    program = "import os; print('from', os.getcwd()); print('bad', file=__import__('sys').stderr)"

    done = runfold(tmp_path, "run", "--detach", "--", sys.executable, "-c", program, **there)
    run_id = done.stdout.strip()
    waited = runfold(tmp_path, "wait", run_id, **there)

    assert (done.returncode, waited.returncode) == (0, 0), done.stderr
    assert read(tmp_path, "status", run_id, **there)["driver"] == "reported"
    items = read(tmp_path, "events", run_id, **there)["items"]
    said = [it["data"] for it in items if it["type"] == "subprocess_output"]
    errors = [it for it in said if it.get("stream") == "stderr"]
    # Of two pipes nobody can tell what came first, and of one line not where it was cut.
    assert "".join(it["text"] for it in said if it not in errors) == f"from {ROOT}\n"
    assert "".join(it["text"] for it in errors) == "bad\n"


def test_a_detached_command_is_paused_and_cancelled_there(tmp_path: Path, there: dict[str, Any]) -> None:
    run_id = runfold(tmp_path, "run", "--detach", "--", sys.executable, "-c", WAITS, **there).stdout.strip()

    paused = runfold(tmp_path, "pause", "--now", run_id, **there)
    until(tmp_path, run_id, "paused", there)
    cancelled = runfold(tmp_path, "cancel", run_id, **there)
    waited = runfold(tmp_path, "wait", run_id, **there)

    assert (paused.returncode, cancelled.returncode, waited.returncode) == (0, 0, 143)


def until(data: Path, run_id: str, status: str, there: dict[str, Any]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while read(data, "status", run_id, **there)["status"] != status:
        assert time.monotonic() < end


def test_a_command_is_driven_here_and_its_run_is_there(tmp_path: Path, there: dict[str, Any]) -> None:
    program = (
        'import os; print(\'hello from\', os.getcwd()); print(\'{"runfold": {"type": "file_written", "path": "a"}}\')'
    )
    done = runfold(tmp_path, "run", "--title", "mine", "--", sys.executable, "-c", program, **there)
    run = newest(tmp_path, there)
    told = types(tmp_path, there)

    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"hello from {ROOT}"), done.stderr
    assert (run["driver"], run["title"], run["status"], run["reason_code"]) == (
        "reported", "mine", "completed", "EXIT_ZERO"
    )  # fmt: skip
    assert [it for it in told if it.startswith(("run_", "turn_"))] == [
        *("run_queued", "run_started", "turn_started", "turn_completed", "run_completed")
    ]
    assert {"subprocess_output", "file_written", "artifact_stored"} <= set(told)
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(("code", "reason"), [("exit 3", "EXIT_NONZERO"), ("kill -SEGV $$", "CRASHED")])
def test_a_command_that_fails_here_fails_there(tmp_path: Path, there: dict[str, Any], code: str, reason: str) -> None:
    done = runfold(tmp_path, "run", "--quiet", "--", "sh", "-c", code, **there)
    run = newest(tmp_path, there)

    assert done.returncode == (3 if "exit" in code else 128 + signal.SIGSEGV)
    assert (run["status"], run["reason_code"]) == ("failed", reason)


def test_a_loop_here_makes_its_turns_and_stops_where_it_was_told_to(tmp_path: Path, there: dict[str, Any]) -> None:
    words = ("--max-turns", "3", "--until", "DONE", "--prompt", "go ")
    script = f"cat; test -e {tmp_path}/one && echo DONE; touch {tmp_path}/one"
    done = runfold(tmp_path, "run", *words, "--", "sh", "-c", script, **there)
    run = newest(tmp_path, there)

    assert (done.returncode, done.stdout) == (0, "go go DONE\n")
    assert (run["stats"]["turns"], run["reason_code"]) == (2, "COMPLETION_DETECTED")


def pid_of_turn(data: Path, run_id: str, there: dict[str, Any]) -> int:
    """Once it has come: what is reported leaves beside the command, which may be quicker."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        events = read(data, "events", run_id, **there)["items"]
        for it in events:
            if it["type"] == "turn_started":
                return int(it["data"]["pid"])
        assert time.monotonic() < end, events


def started_away(data: Path, there: dict[str, Any]) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "runfold", "run", "--quiet", "--", sys.executable, "-c", WAITS]
    environ = environment(data, **there)
    return subprocess.Popen(words, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def test_a_cancel_there_ends_the_command_here(tmp_path: Path, there: dict[str, Any]) -> None:
    with started_away(tmp_path, there) as driver:
        assert first_line(driver) == "up"
        cancelled = runfold(tmp_path, "cancel", "@last", **there)

        assert cancelled.returncode == 0, cancelled.stderr
        assert driver.wait(30) == 143
    assert newest(tmp_path, there)["status"] == "cancelled"
    assert types(tmp_path, there)[-1] == "run_cancelled"


def test_a_pause_there_holds_the_command_here_until_it_is_resumed(tmp_path: Path, there: dict[str, Any]) -> None:
    with started_away(tmp_path, there) as driver:
        assert first_line(driver) == "up"
        run_id = newest(tmp_path, there)["id"]
        runfold(tmp_path, "pause", run_id, **there)
        watching = [sys.executable, "-m", "runfold", "watch", run_id]
        with subprocess.Popen(
            watching, cwd=ROOT, env=environment(tmp_path, **there), stdout=subprocess.PIPE, text=True
        ) as watch:
            while "run_paused" not in first_line(watch):
                pass
            watch.send_signal(signal.SIGINT)
        resumed = runfold(tmp_path, "resume", run_id, **there)
        runfold(tmp_path, "cancel", run_id, **there)

        assert resumed.returncode == 0, resumed.stderr
        assert driver.wait(30) == 143
    assert types(tmp_path, there)[-1] == "run_cancelled"


def test_an_interrupt_here_stops_the_run_there(tmp_path: Path, there: dict[str, Any]) -> None:
    with started_away(tmp_path, there) as driver:
        assert first_line(driver) == "up"
        driver.send_signal(signal.SIGINT)

        assert driver.wait(30) == 130
    run = newest(tmp_path, there)
    assert (run["status"], run["reason_code"]) == ("stopped", "USER_INTERRUPT")


def test_a_killed_driver_leaves_no_command_and_its_run_is_lost_there(tmp_path: Path, there: dict[str, Any]) -> None:
    with started_away(tmp_path, there) as driver:
        assert first_line(driver) == "up"
        run = newest(tmp_path, there)
        keeper = os.pidfd_open(pid_of_turn(tmp_path, run["id"], there))
        driver.kill()
        gone = select.select([keeper], [], [], PATIENCE_SECONDS)[0]
        os.close(keeper)
    runfold(tmp_path, "cancel", run["id"], **there)

    assert gone

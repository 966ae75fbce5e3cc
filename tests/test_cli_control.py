"""A run in one terminal is held, let go, ended and waited for from another; real processes and signals throughout."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.terminal import ROOT, environment, first_line, read, record, runfold, started

pytestmark = pytest.mark.slow
FAMILY = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(60)\n"
)
STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\n"
    "time.sleep(60)\n"
)


def state(pid: int) -> str:
    """The kernel's letter for a process; `T` is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until_recorded(data: Path, enough: Callable[[list[str]], bool]) -> None:
    """Follow the newest run, as its events come, to the one that is waited for."""
    types: list[str] = []
    with started(data, "watch", "@last") as watching:
        while not enough(types):
            line = first_line(watching)
            assert line, f"the run rests after {types}"
            types.append(line.split()[1])
        watching.send_signal(signal.SIGINT)


def test_a_pause_from_another_process_stops_the_whole_tree_and_a_resume_lets_it_go_on(tmp_path: Path) -> None:
    with started(tmp_path, "run", "--quiet", "--", sys.executable, "-c", FAMILY) as driver:
        pids = [int(word) for word in first_line(driver).split()]
        # Recorded after the signal was sent, which a process in the kernel may take a moment to obey.
        paused = runfold(tmp_path, "pause", "@last", "--reason", "lunch")
        until_recorded(tmp_path, lambda types: "run_paused" in types)
        stopped = [until_state(pid, "T") for pid in pids]

        resumed = runfold(tmp_path, "resume", "@last")
        moving = [until_state(pid, "SRD") for pid in pids]
        status = read(tmp_path, "status", "@last")["status"]
        runfold(tmp_path, "cancel", "@last")

        assert (paused.returncode, resumed.returncode) == (0, 0), paused.stderr + resumed.stderr
        assert "next: runfold resume r_" in paused.stderr
        assert stopped == ["T", "T"]
        assert "T" not in moving
        assert status == "running"
        assert driver.wait(30) == 143


def until_state(pid: int, letters: str) -> str:
    """The state once it is one of these; the test's own time limit ends a wait in vain."""
    while (found := state(pid)) not in letters:
        pass
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_told_by_wait_with_75_and_can_be_cancelled(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, "run", "--quiet", "--", sys.executable, "-c", FAMILY) as driver:
        first_line(driver)
        driver.send_signal(number)
        driver.wait(30)
    stopped = runfold(tmp_path, "wait", "@last")
    cancelled = runfold(tmp_path, "cancel", "@last")
    ended = runfold(tmp_path, "wait", "@last")

    assert driver.returncode == 128 + number
    assert stopped.returncode == 75
    assert cancelled.returncode == 0, cancelled.stderr
    assert ended.returncode == 143


def test_a_second_interrupt_ends_a_command_that_ignores_the_first(tmp_path: Path) -> None:
    command = json.dumps([sys.executable, "-c", STUBBORN])
    (tmp_path / "runfold.toml").write_text(f"[workflow.w]\ncommand = {command}\ngrace_seconds = 300\n")
    data = tmp_path / "data"
    with started(data, "run", "--quiet", "--workflow", "w", cwd=tmp_path) as driver:
        assert first_line(driver) == "up"
        driver.send_signal(signal.SIGINT)
        driver.send_signal(signal.SIGTERM)
        # Asked once, it would have had the whole grace.
        driver.wait(30)
    run = read(data, "status", "@last")
    assert (run["status"], run["reason_code"]) == ("stopped", "USER_INTERRUPT")


def test_logs_are_followed_as_they_are_written_until_the_run_rests(tmp_path: Path) -> None:
    program = "import sys\nprint('one', flush=True)\nsys.stdin.readline()\nprint('two', flush=True)\n"
    driving = [sys.executable, "-m", "runfold", "run", "--quiet", "--", sys.executable, "-c", program]
    with subprocess.Popen(
        driving, cwd=ROOT, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert first_line(driver) == "one"
        with started(tmp_path, "logs", "-f", "@last") as following:
            seen = first_line(following)
            driver.communicate("go\n", timeout=30)
            rest, _ = following.communicate(timeout=30)

    assert (seen, rest, following.returncode) == ("one", "two\n", 0)


@pytest.mark.parametrize(("lines", "shown"), [("0", ""), ("1", "c\n"), ("2", "b\nc\n"), ("9", "a\nb\nc\n")])
def test_logs_show_the_last_lines_that_were_asked_for(tmp_path: Path, lines: str, shown: str) -> None:
    record(tmp_path, "print('a'); print('b'); print('c')")

    assert runfold(tmp_path, "logs", "@last", "--tail", lines).stdout == shown


def test_waiting_tells_a_cancelled_run_as_soon_as_it_is(tmp_path: Path) -> None:
    with started(tmp_path, "run", "--quiet", "--", sys.executable, "-c", FAMILY) as driver:
        first_line(driver)
        with started(tmp_path, "wait", "@last") as waiting:
            cancelled = runfold(tmp_path, "kill", "@last")
            waiting.wait(30)

        assert cancelled.returncode == 0
        assert waiting.returncode == 143
        assert driver.wait(30) == 143

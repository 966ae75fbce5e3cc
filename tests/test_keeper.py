"""The keeper leaves nothing of a command behind, whoever dies first."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from runner import machine
from runner.turns import keeper
from runner.turns.process import end_leftovers
from tests.working import PATIENCE_SECONDS

PROGRAMS = Path(__file__).parent / "programs"


def start_keeper(*argv: str, grace: str = "0.2") -> tuple[subprocess.Popen[bytes], int, int]:
    # An id of its own: a keeper ends whatever carries its run's marker, also the keeper of a test beside it.
    run_id = f"r_{uuid.uuid4().hex}"
    control_read, control_write = os.pipe()
    status_read, status_write = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            keeper.__file__,
            str(control_read),
            str(status_write),
            grace,
            run_id,
            run_id,
            "--session",
            "--",
            *argv,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=(control_read, status_write),
    )
    os.close(control_read)
    os.close(status_write)
    return process, control_write, status_read


def finish(process: subprocess.Popen[bytes], status: int) -> dict[str, object]:
    report = b""
    while chunk := os.read(status, 4096):
        report += chunk
    os.close(status)
    process.communicate(timeout=PATIENCE_SECONDS)
    return json.loads(report) if report else {}


@pytest.mark.parametrize(("script", "key", "value"), [("exit 3", "exit_code", 3), ("kill -9 $$", "signal", 9)])
def test_the_keeper_reports_how_the_command_ended(script: str, key: str, value: int) -> None:
    process, control, status = start_keeper("sh", "-c", script)

    os.write(control, b"G")
    report = finish(process, status)
    os.close(control)

    assert report[key] == value


def test_a_command_that_does_not_exist_is_reported_with_its_error_number() -> None:
    process, control, status = start_keeper("/does/not/exist")

    os.write(control, b"G")
    report = finish(process, status)
    os.close(control)

    assert report == {"pid": 0, "errno": 2}


def test_nothing_starts_when_the_driver_dies_before_it_says_go() -> None:
    process, control, status = start_keeper("sh", "-c", "echo started")

    os.close(control)

    assert finish(process, status) == {"pid": 0}


def test_a_driver_that_is_gone_leaves_no_descendant_even_one_that_ignores_term_in_its_own_session() -> None:
    took, signals = list[float](), list[str]()
    # Both are little where the machine is busy with something else: then once more.
    while len(took) < 3 and not (took and took[-1] < 0.2 + 2 and signals == ["SIGTERM", "SIGKILL"]):
        process, control, status = start_keeper(sys.executable, str(PROGRAMS / "stubborn.py"))
        os.write(control, b"G")
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        began = time.monotonic()
        os.close(control)
        receipt: Any = finish(process, status)["receipt"]
        took.append(time.monotonic() - began)
        signals = receipt["signals"]
        assert [machine.process_started_at(pid) for pid in pids] == ["", ""]
        assert receipt["survivors"] == []
    assert min(took) < 0.2 + 2, took
    assert signals == ["SIGTERM", "SIGKILL"]


def test_who_comes_too_late_to_wait_for_the_end_kills_all_the_same() -> None:
    # As a keeper that a busy machine did not let run until its grace and its patience were over.
    process, control, status = start_keeper("sh", "-c", "trap '' TERM; echo up; exec sleep 60", grace="-10")
    assert process.stdout is not None
    os.write(control, b"G")
    assert process.stdout.readline() == b"up\n"

    os.write(control, b"T")
    report = finish(process, status)
    os.close(control)

    assert report["signal"] == signal.SIGKILL
    receipt = report["receipt"]
    assert isinstance(receipt, dict)
    assert (receipt["survivors"], receipt["signals"]) == ([], ["SIGKILL"])


def test_what_a_command_leaves_running_ends_with_it() -> None:
    process, control, status = start_keeper("sh", "-c", "sleep 1000 & echo $!")

    os.write(control, b"G")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    report = finish(process, status)
    os.close(control)

    assert report["exit_code"] == 0
    assert machine.process_started_at(pid) == ""


def test_a_stopped_command_can_still_be_ended() -> None:
    process, control, status = start_keeper("sh", "-c", "echo up; sleep 1000")
    os.write(control, b"G")
    assert process.stdout is not None
    process.stdout.readline()

    os.write(control, b"ST")
    report = finish(process, status)
    os.close(control)

    assert report["signal"] in (signal.SIGTERM, signal.SIGKILL)


def test_what_the_killed_keepers_of_a_runs_steps_left_is_found_by_the_run_and_nothing_else_is() -> None:
    run_id, other = f"r_{uuid.uuid4().hex}", f"r_{uuid.uuid4().hex}"
    marks = {run_id: f"{run_id}:1:a", other: f"{other}:1:a"}
    left, foreign = (
        subprocess.Popen(["sleep", "1000"], env={keeper.RUN: run, keeper.MARKER: mark}, start_new_session=True)
        for run, mark in marks.items()
    )
    try:
        beside = end_leftovers(f"{run_id}:1:b")
        receipt = end_leftovers(run_id)

        assert (beside.found, receipt.found, receipt.signals, receipt.survivors) == (0, 1, ("SIGKILL",), ())
        assert left.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait(10)

"""`state.json` is whole at every moment, says what the log says, and goes only forward, whoever is killed meanwhile."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from eventstore.ledger import Ledger
from eventstore.log_file import open_reader
from eventstore.proof.faults import Fault
from eventstore.sqlite import SqliteLog
from eventstore.state_file import States, mend_states, read_state, write_state
from projections.engine.views import Views
from projections.history import run_history
from runfold.commands import Complete, Fail, OpenReported, Pause, Resume
from runfold.events import Failure, FileWritten, RunQueued, UnitApproved, UnitRejected, UnitStarted
from runfold.report import report
from runfold.state import new_run
from tests.effort import IS_LONG
from tests.given import observe
from tests.ledgers import RUN, act, say, stored
from tests.terminal import ROOT, environment, read, record, runfold

KILLS = 100 if IS_LONG else 20
OPENING = "6f1c1a52-5f0e-5b52-9d0b-0d9a1c3b7a10"  # The same command again is answered as the first time.
TOGETHER = 10


@asynccontextmanager
async def opened(data: Path) -> AsyncGenerator[Ledger, None]:
    """A ledger that keeps files, with a reported run of four frames."""
    log = await SqliteLog.open(data)
    try:
        ledger = Ledger(log, data=data)
        order = RunQueued(driver="reported", unit_name="frame", units_total=4)
        await act(ledger, OpenReported(queued=order), command_id=OPENING)
        yield ledger
    finally:
        await log.close()


def kept(data: Path, run_id: str = RUN) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "runs" / run_id / "state.json").read_bytes())
    return found


def faults(data: Path) -> list[Fault]:
    with closing(open_reader(data)) as connection:
        return list(States(connection, data).faults())


async def test_the_file_is_the_report_with_its_place_in_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, observe(UnitStarted(unit="f1", index=1, attempt=2, action="Generating frame 1")))
        await act(ledger, observe(UnitRejected(unit="f1")))
        run = await ledger.state(RUN)
        file = kept(tmp_path)

    made = report(run)
    assert (file["status"], file["reason_code"], file["message"]) == (made.status, made.reason_code, made.message)
    assert (file["metrics"], file["details"]) == (made.metrics, made.details)
    assert (file["version"], file["position"]) == (run.version, stored(tmp_path)[-1].position)
    assert file["metrics"]["frames_failed"] == 1


async def test_the_history_in_the_file_is_that_of_the_views(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for command in (Pause(reason="why"), Resume(), Pause(), Resume(), Complete()):
            await act(ledger, command)

    with closing(Views.open(tmp_path)) as views:
        views.refresh()
        transitions = run_history(views.connection, RUN)
    names = ("from", "to", "reason_code", "actor", "at", "position")
    assert [tuple(it[name] for name in names) for it in kept(tmp_path)["history"]] == [
        (it.from_status, it.to_status, it.reason_code, it.actor, it.at, it.position) for it in transitions
    ]
    assert len(transitions) > 6


async def test_telemetry_writes_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        before = (tmp_path / "runs" / RUN / "state.json").stat()
        await act(ledger, say("a", "b"))
        await act(ledger, observe(FileWritten(path="a.py")))
        after = (tmp_path / "runs" / RUN / "state.json").stat()

    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert faults(tmp_path) == []


async def test_a_file_never_goes_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, Pause())
        await act(ledger, Resume())
        newest = kept(tmp_path)

        write_state(tmp_path, new_run(RUN), stored(tmp_path)[:2])

    assert kept(tmp_path) == newest


async def test_a_file_that_lags_is_told_by_verify_and_mended_by_the_next_command(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        old = (tmp_path / "runs" / RUN / "state.json").read_bytes()
        await act(ledger, Pause())
        await act(ledger, Resume())
    (tmp_path / "runs" / RUN / "state.json").write_bytes(old)

    lagging = faults(tmp_path)
    async with opened(tmp_path):
        mended = faults(tmp_path)

    assert [(it.kind, it.run_id) for it in lagging] == [("state", RUN)]
    assert mended == []
    assert len(kept(tmp_path)["history"]) > 2


async def test_a_writer_that_was_killed_between_two_changes_leaves_no_gap_in_the_history(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        old = (tmp_path / "runs" / RUN / "state.json").read_bytes()
        await act(ledger, Pause())
        (tmp_path / "runs" / RUN / "state.json").write_bytes(old)
        await act(ledger, Complete())

    assert faults(tmp_path) == []
    assert [it["to"] for it in kept(tmp_path)["history"]][-2:] == ["paused", "completed"]


async def test_a_file_that_was_altered_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    path = tmp_path / "runs" / RUN / "state.json"
    path.write_text(path.read_text().replace('"WORKING"', '"REPORTED"'))

    assert ["differs" in it.message for it in faults(tmp_path)] == [True]


@pytest.mark.parametrize("left", [b"", b"{", b"\xff", b'{"run_id": 1}'])
async def test_a_file_that_is_no_state_is_told_and_written_anew(tmp_path: Path, left: bytes) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / "runs" / RUN / "state.json").write_bytes(left)

    told = faults(tmp_path)
    async with opened(tmp_path) as ledger:
        await act(ledger, Pause())

    assert ["cannot be read" in it.message for it in told] == [True]
    assert faults(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("left", [b'{"run_id": "r_', b"\x00" * 4096])
def test_a_damaged_file_of_an_old_run_is_named_by_verify_and_written_by_recover_and_no_reader_minds(
    tmp_path: Path, left: bytes
) -> None:
    record(tmp_path)
    record(tmp_path)
    path = tmp_path / "runs" / read(tmp_path, "ps")["items"][-1]["id"] / "state.json"
    sound = path.read_bytes()
    path.write_bytes(left)

    told = runfold(tmp_path, "verify", "--only", "states")
    readers = [runfold(tmp_path, name, path.parent.name) for name in ("status", "report", "why", "history", "logs")]
    untouched = path.read_bytes()
    recovered = runfold(tmp_path, "recover")

    assert (told.returncode, f"`{path.parent.name}` cannot be read; `runfold recover`" in told.stdout) == (1, True)
    assert [it.returncode for it in readers] == [0] * len(readers)
    assert untouched == left
    assert (recovered.returncode, path.read_bytes()) == (0, sound)
    assert runfold(tmp_path, "verify", "--only", "states").returncode == 0


async def test_a_disk_that_takes_no_file_refuses_no_command(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")

    async with opened(tmp_path) as ledger:
        executed = await act(ledger, Complete())

    assert executed.run.status == "completed"


async def test_a_stack_trace_is_kept_only_for_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Failure(code="SYS_X", message="m", stack_trace="Traceback …")
    traces: list[Any] = []
    for number, value in enumerate(("", "1")):
        monkeypatch.setenv("RUNFOLD_DEV", value)
        async with opened(tmp_path / str(number)) as ledger:
            await act(ledger, Fail(reason_code="SYS_X", error=error))
        traces.append(kept(tmp_path / str(number))["details"]["stack_trace"])

    assert traces == [None, "Traceback …"]
    assert faults(tmp_path / "1") == []


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        mode = (tmp_path / "runs" / RUN / "state.json").stat().st_mode & 0o777

    assert mode == 0o600


async def test_callers_at_once_leave_the_file_of_the_last(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(act(ledger, observe(UnitStarted(unit=str(number)), UnitApproved(unit=str(number)))))
        run = await ledger.state(RUN)

    assert kept(tmp_path)["version"] == run.version
    assert faults(tmp_path) == []


@pytest.mark.slow
def test_ten_processes_that_ask_at_once_get_the_same_answer_and_write_nothing(tmp_path: Path) -> None:
    record(tmp_path)
    read(tmp_path, "ps")
    before = _stamps(tmp_path)
    command = [sys.executable, "-m", "runfold", "status", "@last", "--json"]
    asking = [subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE) for _ in range(10)]

    answers = {process.communicate(timeout=60)[0] for process in asking}

    assert len(answers) == 1
    assert json.loads(answers.pop())["status"] == "completed"
    assert _stamps(tmp_path) == before


def _stamps(data: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in data.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_file_that_the_next_command_makes_current(tmp_path: Path) -> None:
    chance = random.Random(7)
    for round_number in range(KILLS // TOGETHER):
        with _movers(tmp_path, round_number) as movers:
            for mover in movers:
                assert mover.stdout is not None
                for _ in range(chance.randint(1, 12)):
                    assert mover.stdout.readline() == b"moved\n"
                mover.kill()
        for path in (tmp_path / "runs").glob("*/state.json"):
            assert read_state(tmp_path, path.parent.name) is not None, f"{path} is not whole"

        mend_states(tmp_path)

        assert faults(tmp_path) == []
    assert len(list((tmp_path / "runs").glob("*/state.json"))) == KILLS


@contextlib.contextmanager
def _movers(data: Path, round_number: int) -> Generator[list["subprocess.Popen[bytes]"]]:
    program = ROOT / "tests" / "programs" / "moves.py"
    movers = [
        subprocess.Popen(
            [sys.executable, str(program), str(data), f"r_{round_number}x{number}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        for number in range(TOGETHER)
    ]
    try:
        yield movers
    finally:
        for mover in movers:
            mover.kill()
            mover.communicate()


@pytest.mark.slow
def test_verify_counts_the_files_and_names_one_that_differs(tmp_path: Path) -> None:
    record(tmp_path)
    sound = runfold(tmp_path, "verify", "--only", "states")
    path = next((tmp_path / "runs").glob("*/state.json"))
    path.write_text(path.read_text().replace('"EXIT_ZERO"', '"REPORTED"'))

    told = runfold(tmp_path, "verify")
    runfold(tmp_path, "recover")

    assert (sound.returncode, "1 states" in sound.stdout) == (0, True)
    assert told.returncode == 1
    assert "differs from the history of its run" in told.stdout
    assert "next: runfold recover" in told.stderr
    assert runfold(tmp_path, "verify").returncode == 0

"""A command run as a recorded run behaves as if it were run alone, and its record is whole."""

import asyncio
import fcntl
import hashlib
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from eventstore.leases import LEASE_SECONDS, monotonic_us
from eventstore.ledger import Executed, Ledger
from eventstore.sqlite import SqliteLog
from runfold import events
from runfold.commands import Cancel, Claim, Command
from runfold.envelope import Recorded
from runfold.errors import Unavailable
from runfold.events import FileWritten, RunFailed, SubprocessOutput, TurnCompleted, TurnFailed
from runner import heeding, machine
from runner.claims import Claims
from runner.here import resume_here
from runner.launch import launch_of, order_of_run
from runner.recovering.recover import recover
from runner.turns.output import EVENT_TEXT_BYTES, PENDING_BYTES
from runner.turns.turn import FLUSH_SECONDS
from tests.working import PATIENCE_SECONDS, working

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"
CAPTURED = ROOT.parent / "shared" / "data" / "captured"
AT_THE_END = PENDING_BYTES // EVENT_TEXT_BYTES + 2  # Samples of what waited, whole and cut, beside the very first one.
RECORDINGS = sorted(path for name in ("hello", "work") for path in CAPTURED.glob(f"*/{name}.jsonl"))


def command_line(data: Path, *argv: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / "drive.py"), str(data), *argv]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def drive(data: Path, *argv: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command_line(data, *argv), stdin=subprocess.DEVNULL, capture_output=True, env=environment(**more), timeout=60
    )


def begin(data: Path, *argv: str, **more: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a run and wait until it is recorded."""
    read, write = os.pipe()
    process = subprocess.Popen(
        command_line(data, *argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(RUN_ID_FD=str(write), **more),
        pass_fds=(write,),
    )
    os.close(write)
    with os.fdopen(read) as told:
        return process, told.readline().strip()


async def history(data: Path) -> list[Recorded]:
    log = await SqliteLog.open(data)
    try:
        return [recorded async for page in log.read() for recorded in page.events if recorded.run_id.startswith("r_")]
    finally:
        await log.close()


def output_of(data: Path) -> bytes:
    (path,) = (data / "runs").glob("*/output.log")
    return path.read_bytes()


async def test_output_passes_through_unchanged_and_the_record_is_complete(tmp_path: Path) -> None:
    content = bytes(range(256)) * 50 + "☃".encode()[:2]
    (tmp_path / "content").write_bytes(content)

    done = drive(tmp_path / "data", "cat", str(tmp_path / "content"))
    events = await history(tmp_path / "data")

    assert (done.returncode, done.stdout, done.stderr) == (0, content, b"")
    assert [e.type for e in events if e.type != "subprocess_output"] == [
        "run_queued",
        "run_claimed",
        "run_started",
        "turn_started",
        "turn_completed",
        "run_completed",
    ]
    (ended,) = (e.event() for e in events if e.type == "turn_completed")
    assert isinstance(ended, TurnCompleted)
    assert (ended.output_bytes, ended.output_sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (("sh", "-c", "exit 3"), 3, "EXIT_NONZERO"),
        (("sh", "-c", "kill -SEGV $$"), 139, "CRASHED"),
        (("sh", "-c", "kill -KILL $$"), 137, "KILLED"),
        (("/does/not/exist",), 127, "SYS_LAUNCH_FAILED"),
    ],
)
async def test_the_exit_code_is_the_commands_and_the_reason_says_why(
    tmp_path: Path, argv: tuple[str, ...], code: int, reason: str
) -> None:
    done = drive(tmp_path, *argv)
    last = (await history(tmp_path))[-1].event()

    assert done.returncode == code, done.stderr
    assert isinstance(last, RunFailed)
    assert last.reason_code == reason


async def test_sentinel_lines_become_events(tmp_path: Path) -> None:
    drive(tmp_path, "echo", '{"runfold": {"type": "file_written", "path": "a.py", "bytes": 12}}')

    assert FileWritten(path="a.py", bytes=12, source="sentinel") in [
        recorded.event() for recorded in await history(tmp_path)
    ]


def test_a_quiet_run_prints_what_its_command_prints_byte_for_byte_its_reports_too(tmp_path: Path) -> None:
    report = '{"runfold": {"type": "file_written", "path": "a.py"}}'
    words = [sys.executable, "-m", "runfold", "run", "--quiet", "--", "printf", "%s\\nend", report]
    done = subprocess.run(words, env=environment(RUNFOLD_DATA=str(tmp_path)), capture_output=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{report}\nend".encode(), b"")


@pytest.mark.slow
async def test_no_report_is_lost_when_the_command_ends_while_reports_are_being_written(tmp_path: Path) -> None:
    line = '{"runfold": {"type": "file_written", "path": "%d"}}'

    drive(tmp_path, sys.executable, "-c", f"for n in range(3000): print({line!r} % n)")
    events = [recorded.event() for recorded in await history(tmp_path)]

    assert [e.path for e in events if isinstance(e, FileWritten)] == [str(number) for number in range(3000)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
async def test_git_and_pytest_run_as_they_would_without_us(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_it.py").write_text("def test_good(): pass\n\ndef test_bad(): assert False\n")
    git = drive(tmp_path / "git", "git", "init", "--initial-branch", "main", str(project))
    tests = drive(
        tmp_path / "pytest", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(project)
    )
    told = [recorded.event() for recorded in await history(tmp_path / "pytest")]

    assert (git.returncode, tests.returncode) == (0, 1), git.stderr + tests.stderr
    assert (project / ".git").is_dir()
    assert git.stdout == output_of(tmp_path / "git")
    assert b"1 failed, 1 passed" in tests.stdout
    (counted,) = (event for event in told if isinstance(event, events.TestRunCompleted))
    assert (counted.framework, counted.passed, counted.failed) == ("pytest", 1, 1)


@pytest.mark.slow
async def test_a_hundred_thousand_lines_are_kept_whole_and_sampled(tmp_path: Path) -> None:
    done = drive(tmp_path, "sh", "-c", "i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); done")
    recorded = [r.event() for r in await history(tmp_path)]
    told = [event for event in recorded if isinstance(event, SubprocessOutput)]
    (ended,) = (event for event in recorded if isinstance(event, TurnCompleted))

    assert done.stdout.count(b"\n") == 100_000
    assert output_of(tmp_path) == done.stdout
    assert sum(len(event.text) + event.skipped_bytes for event in told) == len(done.stdout)
    assert ended.duration_ms is not None
    assert len(told) <= ended.duration_ms / 1_000 / FLUSH_SECONDS + AT_THE_END


@pytest.mark.skipif(not RECORDINGS, reason="the recorded agent sessions are not beside this checkout")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_a_recorded_agent_session_arrives_complete(tmp_path: Path, recording: Path) -> None:
    done = drive(tmp_path, "cat", str(recording))
    told = [e for e in (r.event() for r in await history(tmp_path)) if isinstance(e, SubprocessOutput)]

    assert done.stdout == output_of(tmp_path) == recording.read_bytes()
    assert sum(len(event.text.encode()) + event.skipped_bytes for event in told) == len(done.stdout)


async def test_a_cancel_from_another_process_ends_the_command(tmp_path: Path) -> None:
    process, run_id = begin(tmp_path, "sh", "-c", "echo up; sleep 1000")
    assert process.stdout is not None
    process.stdout.readline()
    log = await SqliteLog.open(tmp_path)

    await Ledger(log).execute(
        run_id, Cancel(reason="enough"), command_id=str(uuid.uuid4()), actor="user:test", tenant="default"
    )
    await log.close()
    await asyncio.to_thread(process.communicate, timeout=30)
    types = [recorded.type for recorded in await history(tmp_path) if recorded.type != "subprocess_output"]

    assert process.returncode == 143
    assert types[-3:] == ["cancel_requested", "turn_cancelled", "run_cancelled"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupt_stops_the_run(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process, _ = begin(tmp_path, "sh", "-c", "echo up; sleep 1000")
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(number)
    await asyncio.to_thread(process.communicate, timeout=30)

    assert process.returncode == code
    assert (await history(tmp_path))[-1].type == "run_stopped"


async def test_a_killed_driver_leaves_no_descendant(tmp_path: Path) -> None:
    process, _ = begin(tmp_path, sys.executable, str(PROGRAMS / "stubborn.py"))
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    handles = [os.pidfd_open(pid) for pid in pids]

    process.kill()
    await asyncio.to_thread(process.communicate, timeout=30)
    gone = [select.select([handle], [], [], PATIENCE_SECONDS)[0] != [] for handle in handles]
    for handle in handles:
        os.close(handle)
    assert gone == [True, True]
    assert [machine.process_started_at(pid) for pid in pids] == ["", ""]


def read_all(master: int) -> bytes:
    """What was shown on a terminal that nobody holds any more: it comes in pieces of any size."""
    shown = b""
    with suppress(OSError):  # Linux says so at the end.
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    return shown


async def test_on_a_terminal_the_command_has_one_too_and_no_byte_is_changed(tmp_path: Path) -> None:
    program = "import sys; sys.stdout.write(f'{sys.stdout.isatty()} {sys.stdin.isatty()}\\n')"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command_line(tmp_path, sys.executable, "-c", program),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    os.close(slave)
    await asyncio.to_thread(process.wait, 30)
    shown = read_all(master)
    assert shown == b"True True\r\n"
    assert output_of(tmp_path) == b"True True\n"


async def test_a_failed_command_tells_its_turn_failed(tmp_path: Path) -> None:
    drive(tmp_path, "sh", "-c", "exit 4")

    (ended,) = (r.event() for r in await history(tmp_path) if r.type == "turn_failed")
    assert isinstance(ended, TurnFailed)
    assert ended.exit_code == 4


async def test_a_second_interrupt_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    program = "trap '' INT TERM; echo up; while :; do sleep 0.01; done"
    process, _ = begin(tmp_path, "sh", "-c", program, GRACE_SECONDS="3600")
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.communicate, timeout=30)

    # Which of two pending signals is handled first is not ours to say.
    assert process.returncode in (130, 143)
    assert (await history(tmp_path))[-1].type == "run_stopped"


async def test_a_new_size_of_our_terminal_reaches_the_command(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])\n"
        "print('up', flush=True)\n"
        "signal.sigwait([signal.SIGWINCH])\n"
        "print(tuple(os.get_terminal_size(1)), flush=True)"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command_line(tmp_path, sys.executable, "-c", program),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    shown = await asyncio.to_thread(os.read, master, 1)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    process.send_signal(signal.SIGWINCH)
    await asyncio.to_thread(process.wait, 30)
    os.close(slave)
    shown += read_all(master)
    assert shown == b"up\r\n(77, 33)\r\n"


async def test_a_run_that_times_out_exits_with_124(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text("[workflow.w]\ncommand = ['sleep', '1000']\nturn_timeout_seconds = 0.2\n")

    done = subprocess.run(
        [sys.executable, "-m", "runfold", "--data", str(tmp_path / "data"), "run", "--workflow", "w"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=60,
    )

    assert done.returncode == 124


async def test_a_run_that_was_taken_over_unheard_is_found_when_its_driver_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Ledger.execute

    async def unheard(self: Ledger, run_id: str, command: Command, **more: Any) -> Executed:
        executed = await execute(self, run_id, command, **more)
        if isinstance(command, Claim):
            raise Unavailable("the log's servers did not answer")
        return executed

    monkeypatch.setattr(Ledger, "execute", unheard)
    monkeypatch.setattr(heeding, "UNAVAILABLE_TRIES", 1)
    async with working(tmp_path, "[workflow.w]\ncommand = ['true']\n", workers=0) as nobody:
        run = await nobody.ledger.state(await nobody.queue("w"))
        launch = launch_of(await order_of_run(nobody.log, run.run_id), nobody.registry.workflows["w"])
        with pytest.raises(Unavailable):
            await resume_here(nobody.ledger, nobody.log, run, launch, data=nobody.data, quiet=True)
        later_us = monotonic_us() + int(2 * LEASE_SECONDS * 1_000_000)
        found = await recover(nobody.ledger, nobody.log, data=nobody.data, now=lambda: later_us)
        after = await nobody.ledger.state(run.run_id)

    assert (found, after.worker) == ([run.run_id], "")


async def test_a_run_that_is_taken_over_is_driven_also_where_its_lease_cannot_be_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_again = Claims.take_again
    takes: list[int] = []

    async def take_once(self: Claims, run_id: str, tenant: str, claim: int) -> None:
        takes.append(claim)
        if len(takes) > 1:
            raise Unavailable("the leases cannot be written now")
        await take_again(self, run_id, tenant, claim)

    monkeypatch.setattr(Claims, "take_again", take_once)
    async with working(tmp_path, "[workflow.w]\ncommand = ['true']\n", workers=0) as nobody:
        run = await nobody.ledger.state(await nobody.queue("w"))
        launch = launch_of(await order_of_run(nobody.log, run.run_id), nobody.registry.workflows["w"])
        code = await resume_here(nobody.ledger, nobody.log, run, launch, data=nobody.data, quiet=True)
        after = await nobody.ledger.state(run.run_id)

    assert (code, after.status, after.claim) == (0, "completed", 1)
    assert takes == [1, 1]

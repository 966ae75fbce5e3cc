"""The lock that all processes share: who waits in vain is told for whom, and has changed nothing."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from eventstore import file_lock
from eventstore.file_lock import FileLock
from eventstore.sqlite import SqliteLog
from eventstore.writing import LOCK_FILE
from runfold.errors import Unavailable
from tests.contract.events import all_events, new_event
from tests.terminal import record, runfold

ROOT = Path(__file__).parent.parent
STOPS_INSIDE = """
import os, signal, sys
from pathlib import Path
from eventstore.writing import Writer
writer = Writer(Path(sys.argv[1]), lambda: 1)
with writer.locked():
    writer.connection.execute("BEGIN IMMEDIATE")
    os.kill(os.getpid(), signal.SIGSTOP)
    writer.connection.execute("ROLLBACK")
writer.close()
"""


@pytest.fixture
def stopped(tmp_path: Path) -> Generator["subprocess.Popen[bytes]"]:
    """A process that was stopped in the midst of a transaction of the log."""
    process = subprocess.Popen([sys.executable, "-c", STOPS_INSIDE, str(tmp_path)], cwd=ROOT)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    yield process
    process.kill()
    process.wait(30)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "STOPPED_SECONDS", 0.1)


linux = pytest.mark.skipif(sys.platform != "linux", reason="another system does not tell who holds a lock")


@pytest.mark.slow
@linux
@pytest.mark.usefixtures("impatient")
async def test_who_is_stopped_inside_an_append_is_named_to_the_others_who_go_on_when_it_does(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    log = await SqliteLog.open(tmp_path)
    before = await log.append("r_a", [new_event()], expected=0)
    stopped: subprocess.Popen[bytes] = request.getfixturevalue("stopped")
    event, refused = new_event(), list[Unavailable]()

    for _ in range(2):
        with pytest.raises(Unavailable) as error:
            await log.append("r_a", [event], expected=before.last)
        refused.append(error.value)
    with pytest.raises(Unavailable, match=f"process {stopped.pid}, which is stopped, has held"):
        await SqliteLog.open(tmp_path)
    held = await all_events(log)
    stopped.send_signal(signal.SIGCONT)
    code = stopped.wait(30)
    after = await log.append("r_a", [event], expected=before.last)
    await log.close()

    assert all(f"process {stopped.pid}, which is stopped, has held" in error.message for error in refused)
    assert all(f"`kill -CONT {stopped.pid}` lets it go on" in error.hint for error in refused)
    assert held == list(before.events)
    assert (code, after.duplicate, after.version) == (0, False, 2)


@pytest.mark.slow
@linux
def test_a_command_says_within_seconds_who_holds_the_log_and_what_to_do(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    record(tmp_path)
    stopped: subprocess.Popen[bytes] = request.getfixturevalue("stopped")

    told = runfold(tmp_path, "note", "@last", "seen")
    listed = runfold(tmp_path, "ps", "--quiet")

    assert told.returncode == 1
    assert f"error: process {stopped.pid}, which is stopped, has held `{tmp_path / LOCK_FILE}`" in told.stderr
    assert f"\n\nhint: `kill -CONT {stopped.pid}`" in told.stderr
    assert (listed.returncode, listed.stdout[:2]) == (0, "r_")


def test_a_lock_that_is_held_for_too_long_is_refused_and_free_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "STOPPED_SECONDS", 0.02)
    monkeypatch.setattr(file_lock, "HELD_SECONDS", 0.04)
    mine, others = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
    lock = FileLock(mine, tmp_path / "lock")
    fcntl.flock(others, fcntl.LOCK_EX)

    with pytest.raises(Unavailable, match="has held"), lock:
        pass
    fcntl.flock(others, fcntl.LOCK_UN)
    with lock, pytest.raises(BlockingIOError):
        fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)

    os.close(mine)
    os.close(others)

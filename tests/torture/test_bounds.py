"""The journal stays small, whoever reads: 200 readers that stall, and other processes that stop in the middle."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from eventstore.journal import JOURNAL_BYTES_MAX
from eventstore.keeping.backup import backup, check_backup
from eventstore.sqlite import SqliteLog
from runfold.envelope import NewEvent
from tests.torture.soundness import new

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
READERS = 200
WRITTEN_BYTES = 2 * JOURNAL_BYTES_MAX
EVENT_BYTES = 60_000
EVENTS = 8
STOPPED_AFTER = 100  # Appends of so many events: the copy takes long enough to be met in its middle.

# Reads one page of each kind, then holds still with everything open until its input ends.
STALLED = """
import sys
from pathlib import Path
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from projections.engine.views import Views
from projections.run_list import RunFilter, list_runs
data = Path(sys.argv[1])
log = open_reader(data)
assert read_page(log, limit=2).events
views = Views.open(data)
views.refresh()
list_runs(views.connection, RunFilter(tenant=None))
print("stalled", flush=True)
sys.stdin.read()
"""


def big() -> NewEvent:
    return new("x" * EVENT_BYTES)


@pytest.mark.timeout(600)
async def test_the_journal_stays_small_with_200_stalled_readers_and_processes_that_stopped(tmp_path: Path) -> None:
    journal = tmp_path / "log.db-wal"
    log = await SqliteLog.open(tmp_path)
    last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=0)).last
    stalled = [
        subprocess.Popen(
            [sys.executable, "-c", STALLED, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    largest = written = 0

    try:
        async with AsyncExitStack() as stack:
            for process in stalled:
                assert process.stdout is not None
                assert process.stdout.readline() == "stalled\n"
            for number in range(READERS):
                pages = log.tail(after=number % EVENTS) if number % 2 else log.read(after=number % EVENTS)
                await anext(await stack.enter_async_context(aclosing(pages)))
            while written < WRITTEN_BYTES:
                last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=last)).last
                written += EVENTS * EVENT_BYTES
                largest = max(largest, os.path.getsize(journal))
    finally:
        for process in stalled:
            process.communicate(timeout=30)
        await log.close()

    print(f"{written / 1e6:.0f} MB written, journal at most {largest / 1e6:.1f} MB")
    assert largest <= JOURNAL_BYTES_MAX


@pytest.mark.timeout(600)
async def test_the_journal_stays_small_beside_a_backup_that_pauses(tmp_path: Path) -> None:
    data, journal = tmp_path / "data", tmp_path / "data" / "log.db-wal"
    log = await SqliteLog.open(data)
    last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=0)).last
    pausing, going_on = threading.Event(), threading.Event()

    def pause(_done: int, _total: int) -> None:
        pausing.set()
        going_on.wait()

    largest = written = 0
    copying = asyncio.create_task(asyncio.to_thread(backup, data, tmp_path / "copy", on_progress=pause))
    try:
        await asyncio.to_thread(pausing.wait)
        while written < WRITTEN_BYTES:
            last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=last)).last
            written += EVENTS * EVENT_BYTES
            largest = max(largest, os.path.getsize(journal))
    finally:
        going_on.set()
        manifest = await copying
        await log.close()

    print(f"{written / 1e6:.0f} MB written, journal at most {largest / 1e6:.1f} MB")
    assert largest <= JOURNAL_BYTES_MAX
    assert manifest.head == EVENTS
    assert check_backup(tmp_path / "copy")[1] == []


@pytest.mark.timeout(600)
async def test_the_journal_stays_small_beside_a_backup_that_is_stopped(tmp_path: Path) -> None:
    """Stopped as by Ctrl-Z, or by a signal that nobody can catch, wherever it is."""
    data, journal = tmp_path / "data", tmp_path / "data" / "log.db-wal"
    log = await SqliteLog.open(data)
    last = 0
    for _ in range(STOPPED_AFTER):
        last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=last)).last
    copying = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "--data", str(data), "backup", str(tmp_path / "copy")], cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    try:
        # Its copy grows: it is in the middle of a batch.
        while not (tmp_path / "copy" / "log.db").exists() or (tmp_path / "copy" / "log.db").stat().st_size < 1_000_000:
            await asyncio.sleep(0)
        os.killpg(copying.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, copying.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        largest = written = 0
        while written < WRITTEN_BYTES:
            last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=last)).last
            written += EVENTS * EVENT_BYTES
            largest = max(largest, os.path.getsize(journal))
        os.killpg(copying.pid, signal.SIGCONT)
        assert await asyncio.to_thread(copying.wait) == 0
    finally:
        copying.kill()
        copying.wait()
        await log.close()

    print(f"{written / 1e6:.0f} MB written, journal at most {largest / 1e6:.1f} MB")
    assert largest <= JOURNAL_BYTES_MAX
    assert check_backup(tmp_path / "copy")[1] == []


@pytest.mark.timeout(600)
async def test_a_reader_that_holds_a_snapshot_makes_the_journal_grow(tmp_path: Path) -> None:
    """The control: what every reader of ours avoids."""
    from eventstore.log_file import open_reader

    log = await SqliteLog.open(tmp_path)
    last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=0)).last
    reader = open_reader(tmp_path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()

    for _ in range(40):
        last = (await log.append("r_a", [big() for _ in range(EVENTS)], expected=last)).last
    size = os.path.getsize(tmp_path / "log.db-wal")
    reader.close()
    await log.close()

    assert size >= 40 * EVENTS * EVENT_BYTES

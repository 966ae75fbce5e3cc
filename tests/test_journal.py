"""The log's journal: who keeps it growing is named on every surface, until he lets go."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cli.journal_watch import watch_journal
from eventstore.journal import JOURNAL_BYTES_MAX, Holder, journal_of
from eventstore.log_file import open_reader
from eventstore.preparing import prepare
from eventstore.sqlite import SqliteLog
from eventstore.writing import JOURNAL_PAGES, JOURNAL_PAGES_BUSY, Writer
from tests.contract.events import new_event
from tests.processes import stop
from tests.served import serving
from tests.terminal import runfold

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="another system does not tell who holds a lock"),
]

ROOT = Path(__file__).parent.parent
READS = """
import sys
from pathlib import Path
from eventstore.preparing import prepare
from eventstore.log_file import open_reader
rows = open_reader(Path(sys.argv[1])).execute("SELECT * FROM events")
rows.fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


@contextmanager
def in_a_statement(data: Path) -> Generator["subprocess.Popen[bytes]"]:
    """A process in the middle of a statement on the log."""
    with subprocess.Popen(
        [sys.executable, "-c", READS, str(data)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"reading\n"
            yield process
        finally:
            process.kill()


def grow(data: Path) -> None:
    """Beyond its bound, and without the time it takes: what follows the last commit is nothing to SQLite."""
    os.truncate(data / "log.db-wal", JOURNAL_BYTES_MAX + 1_000_000)


async def test_who_is_stopped_in_the_middle_of_a_read_is_named_once_the_journal_is_beyond_its_bound(
    tmp_path: Path,
) -> None:
    log = await SqliteLog.open(tmp_path)
    try:
        last = (await log.append("r_a", [new_event(), new_event()], expected=0)).last
        with in_a_statement(tmp_path) as reader:
            small = journal_of(tmp_path)
            grow(tmp_path)
            at_work = journal_of(tmp_path)
            stop(reader)
            stopped = journal_of(tmp_path)
            await log.append("r_a", [new_event()], expected=last)
            reader.send_signal(signal.SIGCONT)
            reader.communicate()
        ended = journal_of(tmp_path)
    finally:
        await log.close()

    assert small.held_by == ()
    assert at_work.held_by == (Holder(pid=reader.pid, is_stopped=False),)
    assert at_work.sentence.endswith(f"a read of process {reader.pid}")
    assert stopped.held_by == (Holder(pid=reader.pid, is_stopped=True),)
    assert stopped.sentence.endswith(f"a read of process {reader.pid} (stopped)")
    assert f"`kill -CONT {reader.pid}`" in stopped.remedy
    assert ended.held_by == ()
    assert ended.sentence == ended.remedy == ""


async def test_who_asks_is_not_named_nor_is_beside_one_that_was_stopped_who_runs(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    own = open_reader(tmp_path)
    try:
        await log.append("r_a", [new_event(), new_event()], expected=0)
        reading = own.execute("SELECT * FROM events")
        reading.fetchone()
        grow(tmp_path)
        alone = journal_of(tmp_path)
        with in_a_statement(tmp_path) as runs, in_a_statement(tmp_path) as stopped:
            beside = journal_of(tmp_path)
            stop(stopped)
            kept = journal_of(tmp_path)
        reading.close()
    finally:
        own.close()
        await log.close()

    assert alone.held_by == ()
    assert {holder.pid for holder in beside.held_by} == {runs.pid, stopped.pid}
    assert kept.held_by == (Holder(pid=stopped.pid, is_stopped=True),)


async def test_who_keeps_the_journal_is_named_by_the_probe_to_admins_by_doctor_and_in_the_servers_log(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as served:
        await served.open_run(title="a")
        before = await (await served.ask("GET", "/readyz")).json()
        with in_a_statement(tmp_path) as reader, capture_logs() as logged:
            stop(reader)
            grow(tmp_path)
            probe = await (await served.ask("GET", "/readyz")).json()
            admin = await (await served.ask("GET", "/api/admin/server")).json()
            doctor = await asyncio.to_thread(runfold, tmp_path, "doctor", "--json")
            watching = asyncio.create_task(watch_journal(tmp_path, 0.01))
            while not logged:
                await asyncio.sleep(0)
            reader.kill()
            reader.wait()
            while len(logged) < 2:
                await asyncio.sleep(0)
            watching.cancel()
        after = await (await served.ask("GET", "/readyz")).json()

    assert before["journal"] is None
    assert probe["status"] == "degraded"
    assert probe["journal"]["pids"] == [reader.pid]
    assert f"`kill -CONT {reader.pid}`" in probe["journal"]["remedy"]
    assert f"process {reader.pid}" in admin["log"]["journal_trouble"]
    assert admin["log"]["journal_bytes"] > JOURNAL_BYTES_MAX
    (finding,) = [each for each in json.loads(doctor.stdout)["findings"] if each["name"] == "journal"]
    assert finding["level"] == "problem"
    assert f"process {reader.pid}" in finding["text"]
    assert [entry["log_level"] for entry in logged] == ["warning", "info"]
    assert logged[0]["pids"] == (reader.pid,)
    assert after["journal"] is None


def test_the_journal_may_hold_more_while_many_append_at_once_and_a_while_longer(tmp_path: Path) -> None:
    writer = Writer(tmp_path, lambda: 1)
    left = [prepare(f"r_{number}", [new_event()], 0) for number in range(60)]

    def pages_after(count: int) -> int:
        writer.append([left.pop() for _ in range(count)])
        return int(writer.connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0])

    pages = [pages_after(count) for count in (1, 12, 1, 9, 1, 1, 1)]
    writer.close()

    few, many = JOURNAL_PAGES, JOURNAL_PAGES_BUSY
    assert pages == [few, *[many] * 5, few]
    page_bytes = 4096
    assert many * page_bytes < JOURNAL_BYTES_MAX / 2

"""The second copy of a log: kept by one machine at a time, whole at every moment, and a log is made again from it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstore.failpoints import NAME as FAILPOINT
from eventstore.keeping.cleaning import trim
from eventstore.keeping.copy_keeping import Keeper
from eventstore.keeping.log_restoring import restore_log
from eventstore.keeping.redacting import redact
from eventstore.keeping.second_copy import READ_AHEAD, Comparison, SecondCopy, copied_log
from eventstore.log_file import open_reader
from eventstore.objects import blobs
from eventstore.objects.object_store import ObjectStore, open_store
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.errors import BadRequest, Damaged, Diverged, NotFound
from runfold.events import ArtifactStored, encode_data
from tests.contract.events import SECRET, new_event, numbered, run
from tests.terminal import ROOT, read, record, runfold

KEEP = (
    "import sys; from pathlib import Path; from eventstore.keeping.copy_keeping import Keeper\n"
    "keeper = Keeper(Path(sys.argv[1]), sys.argv[2], writer='one', events_max=10)\n"
    "while keeper.step(): pass"
)


WITHIN_SECONDS = 60


class Folder:
    """A log of its own, and the store that has its second copy."""

    def __init__(self, folder: Path) -> None:
        self.data, self.url = folder / "data", f"file://{folder / 'store'}"
        self.clock = 0.0

    async def append(self, name: str, count: int = 5) -> None:
        log = await SqliteLog.open(self.data)
        try:
            last = await log.last(name)
            await log.append(name, numbered(0, count), expected=0 if last is None else last.position)
        finally:
            await log.close()

    def keeper(self, writer: str = "one", data: Path | None = None) -> Keeper:
        return Keeper(
            data or self.data, self.url, writer=writer, events_max=10, silent_seconds=60, monotonic=lambda: self.clock
        )

    def keep(self) -> None:
        keeper = self.keeper()
        while keeper.step() is not None:
            pass

    @property
    def copy(self) -> SecondCopy:
        return copied_log(open_store(self.url))

    def segment(self, number: int) -> Path:
        return Path(self.url.removeprefix("file://")) / self.copy.key(number)

    def restore(self, target: Path) -> Path:
        target.mkdir(exist_ok=True)
        restore_log(self.copy, open_store(self.url), target)
        return target

    def differences(self, data: Path | None = None) -> list[str]:
        with closing(open_reader(data or self.data)) as connection:
            return [fault.message for fault in Comparison(connection, self.copy, is_mirror=False).faults()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def rows(data: Path, table: str, order: str = "1") -> list[Any]:
    with closing(open_reader(data)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()


def faults(data: Path) -> list[str]:
    with closing(open_reader(data)) as connection:
        return [fault.message for fault in Proof(connection).faults()]


def altered(data: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(data / "log.db", isolation_level=None)
    for trigger in ("events_stay", "events_remain"):
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    connection.execute(statement, values)
    connection.close()


@pytest.mark.slow
def test_a_lost_log_is_made_again_from_its_copy_with_what_commands_wrote_and_views(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    record(folder.data, "print('hello ' * 1000)")
    folder.keep()

    done = runfold(tmp_path, "log", "restore", folder.url, str(tmp_path / "again"))

    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "again", "events") == rows(folder.data, "events")
    assert rows(tmp_path / "again", "heads") == rows(folder.data, "heads")
    (shown,) = read(tmp_path / "again", "ps")["items"]
    assert shown["status"] == "completed"
    assert "hello" in runfold(tmp_path / "again", "logs", shown["id"]).stdout
    proof = runfold(tmp_path / "again", "verify", RUNFOLD_BLOBS=folder.url)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "1 segments of the copy" in proof.stdout
    assert record(tmp_path / "again").returncode == 0


async def test_a_copy_goes_on_where_it_was_and_has_every_event_once(folder: Folder) -> None:
    for number in range(5):
        await folder.append(f"r_{number}", 7)
        folder.keep()

    segments = [segment for segment, _ in folder.copy.parts()]

    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    assert [row[0] for _, found in folder.copy.parts() for row in found] == list(range(1, 36))
    assert folder.differences() == []
    assert folder.keeper().step() is None


async def test_one_append_is_in_one_segment(folder: Folder) -> None:
    await folder.append("r_a", 6)
    await folder.append("r_b", 9)
    folder.keep()

    assert [segment.upto for segment, _ in folder.copy.parts()] == [15]


async def test_one_machine_keeps_the_copy_and_another_goes_on_when_it_is_silent(folder: Folder) -> None:
    one, two = folder.keeper("one"), folder.keeper("two")
    await folder.append("r_a")
    assert one.step() is not None
    assert two.step() is None
    await folder.append("r_a")

    assert two.step() is None
    folder.clock = 61
    taken = two.step()
    await folder.append("r_a")

    assert taken is not None
    assert (taken.number, taken.writer) == (2, "two")
    assert one.step() is None
    assert two.step() is not None


async def test_of_two_machines_that_make_the_same_segment_one_is_told_and_goes_on_from_the_other(
    folder: Folder,
) -> None:
    await folder.append("r_a")
    keepers = [folder.keeper(name) for name in ("one", "two", "three")]

    made = await asyncio.gather(*(asyncio.to_thread(keeper.step) for keeper in keepers))

    assert len([segment for segment in made if segment is not None]) == 1
    assert [segment.number for segment, _ in folder.copy.parts()] == [1]
    assert folder.differences() == []


@pytest.mark.parametrize("damage", ["bit", "gap", "swap"])
async def test_a_segment_that_is_missing_or_altered_is_named(folder: Folder, tmp_path: Path, damage: str) -> None:
    for _ in range(4):
        await folder.append("r_a", 10)
        folder.keep()
    second = folder.segment(2)
    if damage == "bit":
        content = bytearray(second.read_bytes())
        content[len(content) // 2] ^= 4
        second.write_bytes(content)
    elif damage == "gap":
        second.unlink()
    else:
        second.write_bytes(folder.segment(3).read_bytes())

    with pytest.raises(Damaged, match="segment 2 of the second copy"):
        folder.restore(tmp_path / "again")

    assert "segment 2 of the second copy" in folder.differences()[0]
    assert not (tmp_path / "again" / "log.db").exists()


async def test_the_first_event_in_which_log_and_copy_differ_is_named(folder: Folder) -> None:
    await folder.append("r_a", 10)
    await folder.append("r_b", 10)
    folder.keep()
    altered(folder.data, "UPDATE events SET data = x'7b7d' WHERE position >= 14")

    (found,) = folder.differences()

    assert "event 14, version 4 of `r_b`, in segment 2" in found
    assert "data" in found


async def test_a_log_that_is_not_the_one_of_the_copy_is_not_added_to_it(folder: Folder) -> None:
    await folder.append("r_a", 10)
    folder.keep()
    altered(folder.data, "DELETE FROM events WHERE position > 8")
    altered(folder.data, "UPDATE head SET position = 8")
    altered(
        folder.data, "UPDATE heads SET (position, version, hash) = (SELECT 8, 8, hash FROM events WHERE position = 8)"
    )
    (folder.data / "anchors.jsonl").unlink()

    with pytest.raises(Diverged, match="the log ends at 8"):
        folder.keeper().step()


async def test_what_is_redacted_leaves_the_copy_too_with_its_blobs(folder: Folder, tmp_path: Path) -> None:
    sha256 = blobs.put(folder.data, f"a file with {SECRET}".encode())
    stored = ArtifactStored(artifact_id="a", name="n", sha256=sha256, media_type="text/plain", size_bytes=1)
    log = await SqliteLog.open(folder.data)
    appended = await log.append("r_a", run(), expected=0)
    await log.append("r_a", [new_event(encode_data(stored), type_name="artifact_stored")], expected=appended.last)
    await log.close()
    folder.keep()
    as_it_was = folder.segment(1).read_bytes()
    assert SECRET in str([found for _, found in folder.copy.parts()])
    assert open_store(folder.url).has(f"blobs/{sha256[:2]}/{sha256}")

    redact(folder.data, "r_a", texts=[SECRET], actor="user:a")
    folder.keep()

    assert SECRET not in str([found for _, found in folder.copy.parts()])
    assert not open_store(folder.url).has(f"blobs/{sha256[:2]}/{sha256}")
    assert folder.differences() == []
    again = folder.restore(tmp_path / "again")
    assert rows(again, "events") == rows(folder.data, "events")
    assert faults(again) == []
    folder.segment(1).write_bytes(as_it_was)
    assert "it is redacted, and the copy still has what it was" in folder.differences()[0]


async def test_a_trimmed_log_is_made_again_as_it_is(folder: Folder, tmp_path: Path) -> None:
    log = await SqliteLog.open(folder.data)
    await log.append("r_gone", run(), expected=0)
    await log.append("r_stays", run(), expected=0)
    await log.close()
    folder.keep()
    assert trim(folder.data, ["r_gone"], actor="user:a") == ("r_gone",)
    await folder.append("r_later")
    folder.keep()

    again = folder.restore(tmp_path / "again")

    assert "r_gone" not in {row[1] for _, found in folder.copy.parts() for row in found}
    assert rows(again, "events") == rows(folder.data, "events")
    assert rows(again, "heads") == rows(folder.data, "heads")
    assert rows(again, "head")[0][1:] == rows(folder.data, "head")[0][1:]
    assert faults(again) == []


class Together(ObjectStore):
    """A store that answers only when so many have asked it: who asks one after the other waits in vain."""

    def __init__(self, url: str, parties: int) -> None:
        super().__init__(open_store(url)._backend)
        self._asked = threading.Barrier(parties, timeout=WITHIN_SECONDS)
        self._left, self._lock = parties, threading.Lock()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            self._left -= 1
            is_one_of_them = self._left >= 0
        if is_one_of_them:
            self._asked.wait()
        return super().get(key)


async def test_segments_are_asked_for_together_and_read_in_order(folder: Folder) -> None:
    for number in range(READ_AHEAD + 4):
        await folder.append(f"r_{number}")
        folder.keep()
    copy = SecondCopy(Together(folder.url, READ_AHEAD), folder.copy.log_id)

    read = [segment.number for segment, _ in copy.parts()]

    assert read == list(range(1, READ_AHEAD + 5))


def test_a_store_without_a_copy_says_so(folder: Folder) -> None:
    with pytest.raises(NotFound, match="no copy of a log"):
        copied_log(open_store(folder.url))


async def test_nothing_is_restored_over_a_log(folder: Folder) -> None:
    await folder.append("r_a")
    folder.keep()

    with pytest.raises(BadRequest, match="holds a log already"):
        folder.restore(folder.data)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["copy.shared", "copy.created", "copy.rewritten", "restore.segment"])
async def test_killed_at_any_place_a_copy_goes_on_and_a_restore_is_done_again(
    folder: Folder, tmp_path: Path, place: str
) -> None:
    log = await SqliteLog.open(folder.data)
    for number in range(4):
        await log.append(f"r_{number}", run(), expected=0)
    await log.close()
    folder.keep()
    redact(folder.data, "r_0", texts=[SECRET], actor="user:a")
    trim(folder.data, ["r_1"], actor="user:a")
    target = tmp_path / "again"
    keep = [sys.executable, "-c", KEEP, str(folder.data), folder.url]
    restore = [sys.executable, "-m", "runfold", "log", "restore", folder.url, str(target)]

    environ = {**os.environ, "PYTHONPATH": str(ROOT), FAILPOINT: place}
    killed = [subprocess.run(command, env=environ, capture_output=True).returncode for command in (keep, restore)]
    if (target / "log.db").exists():
        assert faults(target) == []
    folder.keep()
    again = folder.restore(target if not (target / "log.db").exists() else tmp_path / "another")

    assert -signal.SIGKILL in killed
    assert rows(again, "events") == rows(folder.data, "events")
    assert faults(again) == []
    assert folder.differences() == []
    assert SECRET not in str([found for _, found in folder.copy.parts() for row in found if row[1] == "r_0"])

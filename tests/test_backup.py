"""A backup taken while runs go on is whole, is proved before it is put back, and never goes over a log."""

import asyncio
import hashlib
import json
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from eventstore.keeping.backup import MANIFEST_FILE, backup, check_backup, restore
from eventstore.keeping.cleaning import candidates, clean
from eventstore.keeping.redacting import redact
from eventstore.ledger import Ledger
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.proof.verifying import Proof
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Observe
from runfold.errors import BadRequest, NotFound, Refused
from runfold.events import Message
from tests.folders import contents, files_with
from tests.format_1 import bring_back
from tests.leaked import SECRET, record
from tests.tampering import find, write_log


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    await write_log(folder)
    return folder


def events(data: Path) -> list[tuple[int, str]]:
    with closing(open_reader(data)) as log:
        return [(event.position, event.id) for event in read_page(log).events]


def test_what_is_restored_is_what_was_backed_up(data: Path, tmp_path: Path) -> None:
    (data / "runs" / "r_1").mkdir(parents=True)
    (data / "runs" / "r_1" / "output.log").write_bytes(b"said")
    (data / "token").write_text("secret")

    manifest = backup(data, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "again")

    assert events(tmp_path / "again") == events(data)
    assert manifest.head == len(events(data))
    assert (tmp_path / "again" / "runs" / "r_1" / "output.log").read_bytes() == b"said"
    assert not (tmp_path / "again" / "token").exists()
    with closing(open_reader(tmp_path / "again")) as log:
        assert list(Proof(log).faults()) == []


def test_a_backup_of_an_older_runfold_is_proved_and_put_back_and_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    copy, log = tmp_path / "copy", tmp_path / "copy" / LOG_FILE
    manifest = backup(data, copy)
    bring_back(log)
    with closing(sqlite3.connect(log)) as file:
        file.execute("PRAGMA journal_mode = DELETE")
    digest = hashlib.sha256(log.read_bytes()).hexdigest()
    (copy / MANIFEST_FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, log_sha256=digest)))
    before = contents(copy)

    faults = check_backup(copy)[1]
    restore(copy, tmp_path / "again")

    assert (faults, find(tmp_path / "again")) == ([], [])
    assert events(tmp_path / "again") == events(data)
    assert contents(copy) == before


@pytest.mark.slow
async def test_a_backup_under_load_holds_every_event_acknowledged_before_it(data: Path, tmp_path: Path) -> None:
    log = await SqliteLog.open(data)
    ledger = Ledger(log)
    run_id = (await log.last(read_first_run(data))).run_id  # type: ignore[union-attr]
    acknowledged = 0
    stop = asyncio.Event()

    async def write() -> None:
        nonlocal acknowledged
        while not stop.is_set():
            executed = await ledger.execute(
                run_id,
                Observe(events=(Message(text="more"),)),
                command_id=str(uuid.uuid4()),
                actor="user:a",
                tenant="default",
            )
            acknowledged = executed.events[-1].position

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for number in range(5):
            before = acknowledged
            manifest = await asyncio.to_thread(backup, data, tmp_path / str(number))
            _, faults = check_backup(tmp_path / str(number))
            assert faults == []
            assert manifest.head >= before
        stop.set()
    await log.close()


def read_first_run(data: Path) -> str:
    with closing(open_reader(data)) as log:
        return read_page(log, limit=1).events[0].run_id


async def test_what_is_redacted_while_it_is_copied_is_not_in_the_copy(tmp_path: Path) -> None:
    await record(tmp_path / "data")
    said: list[int] = []

    def progress(done: int, _total: int) -> None:
        if not said:
            redact(tmp_path / "data", "r_a", texts=[SECRET], actor="user:a")
        said.append(done)

    manifest = backup(tmp_path / "data", tmp_path / "copy", on_progress=progress)

    assert manifest.head == len(events(tmp_path / "data"))
    assert check_backup(tmp_path / "copy")[1] == []
    assert files_with(tmp_path / "copy", SECRET) == []


async def test_a_trimmed_run_is_in_the_copy_as_its_summary(data: Path, tmp_path: Path) -> None:
    clean(data, candidates(data, before_us=2**62, whole=True), whole=True, actor="user:a")

    backup(data, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "again")

    with closing(open_reader(tmp_path / "again")) as log:
        assert list(Proof(log).faults()) == []
        assert log.execute("SELECT * FROM heads ORDER BY run_id").fetchall() == heads(data)
        assert log.execute("SELECT * FROM head").fetchall() != []


def heads(data: Path) -> list[object]:
    with closing(open_reader(data)) as log:
        return log.execute("SELECT * FROM heads ORDER BY run_id").fetchall()


def test_a_restore_never_goes_over_a_log(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "copy")
    before = events(data)

    with pytest.raises(BadRequest, match="holds a log already"):
        restore(tmp_path / "copy", data)

    assert events(data) == before


def test_a_second_backup_does_not_go_over_the_first(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "copy")

    with pytest.raises(BadRequest, match="holds a backup already"):
        backup(data, tmp_path / "copy")


@pytest.mark.parametrize("name", ["log.db", "anchors.jsonl", "blob"])
def test_a_backup_with_one_flipped_bit_is_refused_and_nothing_is_put_anywhere(
    data: Path, tmp_path: Path, name: str
) -> None:
    backup(data, tmp_path / "copy")
    path = next((tmp_path / "copy" / "blobs").glob("??/*")) if name == "blob" else tmp_path / "copy" / name
    content = bytearray(path.read_bytes())
    content[-40 if name == "log.db" else len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(Refused, match="does not hold"):
        restore(tmp_path / "copy", tmp_path / "again")

    assert not (tmp_path / "again").exists()


def test_a_backup_that_was_cut_off_is_no_backup(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "copy")
    (tmp_path / "copy" / MANIFEST_FILE).unlink()

    with pytest.raises(NotFound, match="no complete backup"):
        restore(tmp_path / "copy", tmp_path / "again")


@pytest.mark.slow
def test_the_commands_back_up_check_and_restore(data: Path, tmp_path: Path) -> None:
    def runfold(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "runfold", "--data", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = runfold(data, "backup", str(tmp_path / "copy"), "--json")
    checked = runfold(data, "restore", str(tmp_path / "copy"), "--check")
    restored = runfold(tmp_path / "again", "restore", str(tmp_path / "copy"))
    listed = runfold(tmp_path / "again", "ps", "--json")

    assert json.loads(made.stdout)["head"] == len(events(data))
    assert (checked.returncode, restored.returncode) == (0, 0), checked.stderr + restored.stderr
    assert json.loads(listed.stdout)["total"] == 6

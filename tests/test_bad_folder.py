"""A data folder on a disk that is read-only or full, or with a broken pointer: told plainly, and left as it was."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cli.data_folder import prepare_folder
from eventstore import file_systems
from eventstore.keeping.backup import restore
from eventstore.log_file import open_reader
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import Writer
from projections.run_list import RunFilter, list_runs
from projections.service import ViewService
from runfold.errors import InvalidSetting, LogFailed, Unavailable
from tests.contract.events import new_event
from tests.disks import mount, unmount
from tests.format_1 import bring_back
from tests.import_samples import CODEX
from tests.tampering import damage_table
from tests.terminal import ROOT, environment, read, record, runfold

pytestmark = pytest.mark.slow

SIZE_BYTES = 2 * 1024 * 1024
LARGE = b'{"text":"' + b"x" * 50_000 + b'"}'


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Callable[..., Path], None, None]:
    """A small disk of its own, made or made anew with other options."""
    place = tmp_path / "disk"

    def made(*options: str) -> Path:
        mount(place, SIZE_BYTES, *options)
        return place

    yield made
    unmount(place)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but what SQLite keeps of who reads: the index of a journal, and a journal with nothing in it."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        name: content
        for name, content in found.items()
        if not name.endswith("-shm") and (content or not name.endswith("-wal"))
    }


def fill(filler: Path) -> None:
    """Leave no room on the disk of a file."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_read_only_disk_is_read_and_refuses_to_record_and_is_left_as_it_was(disk: Callable[..., Path]) -> None:
    data = disk() / "data"
    record(data)
    listed = read(data, "ps")["items"]
    lock(data.parent)
    before = contents(data)

    assert read(data, "ps")["items"] == listed
    for command in (["run", "--", "true"], ["rebuild"]):
        done = runfold(data, *command)
        assert done.returncode == 1, command
        assert done.stderr.startswith("error: "), command
        assert "\n\nhint: " in done.stderr, command
        assert "Traceback" not in done.stderr, command
    assert contents(data) == before


@pytest.mark.parametrize("folded", [("ps",), ()], ids=["the list alone", "nothing"])
def test_what_nobody_folded_on_a_read_only_disk_is_folded_for_who_reads(
    disk: Callable[..., Path], folded: tuple[str, ...]
) -> None:
    data = disk() / "data"
    record(data)
    for command in folded:
        runfold(data, command)
    lock(data.parent)
    before = contents(data)
    questions = (
        ["ps"], ["status", "@last"], ["history", "@last"], ["audit"], ["costs"], ["why", "@last"],
        ["sql", "SELECT title FROM runs"], ["verify"],
    )  # fmt: skip

    answers = [runfold(data, *question) for question in questions]

    assert [(done.returncode, done.stderr) for done in answers] == [(0, "")] * len(questions)
    assert [("hello" in done.stdout) for done in (answers[0], answers[6])] == [True, True]
    assert "run_completed" in answers[3].stdout
    assert contents(data) == before


async def test_a_log_with_a_journal_on_a_read_only_disk_says_to_copy_it(
    disk: Callable[..., Path], tmp_path: Path
) -> None:
    data = disk() / "data"
    data.mkdir()
    log = await SqliteLog.open(tmp_path / "here")
    await log.append("r_a", [new_event()], expected=0)
    for name in ("log.db", "log.db-wal"):
        shutil.copy(tmp_path / "here" / name, data)
    await log.close()
    lock(data.parent)

    done = runfold(data, "ps")

    assert done.returncode == 1
    assert "hint: copy the folder to where it can be written" in done.stderr


def test_a_log_of_an_older_runfold_on_a_read_only_disk_says_to_copy_it(disk: Callable[..., Path]) -> None:
    data = disk() / "data"
    record(data)
    bring_back(data / "log.db")
    with closing(sqlite3.connect(data / "log.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    lock(data.parent)

    done = runfold(data, "ps")

    assert done.returncode == 1
    assert "is of an older runfold (format 1, known 2)" in done.stderr
    assert "hint: copy the folder to where it can be written" in done.stderr


@pytest.mark.parametrize("command", [["ps"], ["verify"], ["run", "--", "true"], ["up", "--port", "0"]])
def test_a_log_that_this_user_may_not_read_is_named(tmp_path: Path, command: list[str]) -> None:
    data = tmp_path / "data"
    record(data)
    (data / "log.db").chmod(0)
    words = [sys.executable, "-m", "runfold", *command]
    if os.geteuid() == 0:
        # Root may read everything, but for what it has given away.
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv, or a user other than root")
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *words]

    done = subprocess.run(words, cwd=ROOT, env=environment(data), capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: `{data / 'log.db'}` may not be read by this user\n\nhint: be the user who owns"
    )


def lock(disk: Path) -> None:
    done = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_refuses_to_record_and_loses_nothing_and_goes_on_when_there_is_room(
    disk: Callable[..., Path],
) -> None:
    data = disk() / "data"
    record(data)
    before = read(data, "events", "@last")["items"]
    filler = data.parent / "filler"
    fill(filler)

    refused = runfold(data, "run", "--", "true")
    reading = runfold(data, "ps")
    filler.unlink()
    kept = read(data, "events", str(before[0]["run_id"]))["items"]
    after = record(data)

    assert refused.returncode != 0
    assert "error: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "Traceback" not in reading.stderr
    assert reading.returncode == 0 or "\n\nhint: free or repair the disk" in reading.stderr
    assert kept == before
    assert after.returncode == 0, after.stderr
    assert read(data, "ps")["total"] >= 2
    assert runfold(data, "verify").returncode == 0


async def test_views_that_cannot_be_folded_anew_on_a_full_disk_are_unavailable_until_there_is_room(
    disk: Callable[..., Path],
) -> None:
    data = disk() / "data"
    record(data)
    wanted, filler = read(data, "ps")["total"], data.parent / "filler"
    views = await ViewService.open(data)
    try:
        damage_table(data / "views.1.db", "runs")
        fill(filler)
        with pytest.raises(Unavailable, match="the views cannot be read now"):
            await views.query(list_runs, RunFilter(tenant=None))
        filler.unlink()
        found, _ = await views.query(list_runs, RunFilter(tenant=None))
    finally:
        await views.close()

    assert found.total == wanted


async def test_a_log_goes_on_by_itself_when_a_full_disk_has_room_again(disk: Callable[..., Path]) -> None:
    data = disk() / "data"
    log = await SqliteLog.open(data)
    stored = [(await log.append("r_a", [new_event()], expected=0)).events[0]]
    filler = data.parent / "filler"
    fill(filler)

    failed = None
    while failed is None:
        try:
            stored += (await log.append("r_a", [new_event(LARGE)], expected=stored[-1].position)).events
        except LogFailed as error:
            failed = error
    with pytest.raises(LogFailed, match="stopped writing"):
        await log.append("r_b", [new_event(LARGE)], expected=0)
    assert await log.last("r_a") == stored[-1]
    filler.unlink()
    again = await log.append("r_b", [new_event(LARGE)], expected=0)
    more = await log.append("r_a", [new_event()], expected=stored[-1].position)
    kept = [event async for page in log.read() for event in page.events]
    await log.close()

    assert "goes on by itself" in str(failed.hint)
    assert kept == [*stored, *again.events, *more.events]
    with closing(open_reader(data)) as reader:
        assert list(Proof(reader).faults()) == []


def of_format(version: int) -> Callable[[Path], None]:
    def make(log: Path) -> None:
        record(log.parent)
        with closing(sqlite3.connect(log)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")

    return make


def foreign(log: Path) -> None:
    with closing(sqlite3.connect(log)) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def lacking(statement: str) -> Callable[[Path], None]:
    def make(log: Path) -> None:
        record(log.parent)
        with closing(sqlite3.connect(log)) as connection:
            connection.execute(statement)

    return make


BAD_LOGS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "of a newer runfold": (of_format(3), "is of a newer runfold (format 3, known 2)", "upgrade runfold"),
    "of an older runfold": (of_format(0), "is of an older runfold (format 0, known 2)", "`runfold import` them into"),
    "of another program": (foreign, "belongs to another program", "choose another data folder"),
    "no database": (
        lambda log: log.write_bytes(b"my aunt" * 900),
        "is not a SQLite file",
        "choose another data folder",
    ),
    "without a column": (
        lacking("ALTER TABLE events DROP COLUMN correlation"),
        "the log's file is damaged: no such column: correlation",
        "then restore a backup",
    ),
    "without a table": (
        lacking("DROP TABLE anchors"),
        "the log's file is damaged: no such table: anchors",
        "then restore a backup",
    ),
    "without an index": (
        lacking("DROP INDEX events_by_block"),
        "the log's file is damaged: no such index: events_by_block",
        "then restore a backup",
    ),
}
COMMANDS = (
    ["ps"], ["status", "@last"], ["audit"], ["sql", "SELECT 1"], ["verify"], ["rebuild"], ["run", "--", "true"],
    ["up", "--port", "0"], ["worker"], ["recover"], ["backup", "copy"], ["clean", "--older-than", "0s"],
    ["import", "a.jsonl"], ["note", "@last", "a"], ["cancel", "@last"],
)  # fmt: skip


def assert_refused_and_left(data: Path, says: str, next_step: str) -> None:
    """By every command, and by `doctor`."""
    (data.parent / "a.jsonl").write_text(CODEX)
    before = contents(data.parent)

    for command in COMMANDS:
        done = runfold(data, *command, cwd=data.parent)

        assert done.returncode == 1, command
        assert (says in done.stderr, next_step in done.stderr) == (True, True), f"{command}: {done.stderr}"
        assert "Traceback" not in done.stderr, command
        assert contents(data.parent) == before, command
    doctor = runfold(data, "doctor")
    assert (doctor.returncode, says in doctor.stdout) == (1, True)


@pytest.mark.parametrize(("make", "says", "next_step"), BAD_LOGS.values(), ids=BAD_LOGS)
def test_a_log_that_is_not_of_this_runfold_is_refused_by_every_command_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], object], says: str, next_step: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    make(data / "log.db")

    assert_refused_and_left(data, says, next_step)


@pytest.mark.parametrize("lose", [Path.unlink, lambda log: log.write_bytes(b"")], ids=["gone", "emptied"])
def test_a_log_that_is_gone_is_told_by_every_command_and_no_other_takes_its_place(
    tmp_path: Path, lose: Callable[[Path], object]
) -> None:
    data = tmp_path / "data"
    record(data)
    lose(data / "log.db")

    says = "holds no log any more: `anchors.jsonl` beside it tells of one"
    assert_refused_and_left(data, says, "then restore a backup")


def test_a_network_file_system_is_refused_before_anything_is_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / ext4 rw 0 0\nhost:/a {tmp_path}/share nfs4 rw 0 0\nvm {tmp_path}/vm virtiofs rw 0 0\n")
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)

    with pytest.raises(InvalidSetting, match=r"a network file system \(nfs4\)") as refused:
        Writer(tmp_path / "share" / "data", lambda: 1)
    with pytest.raises(InvalidSetting, match=r"a network file system \(nfs4\)"):
        prepare_folder(tmp_path / "share" / "data")
    with pytest.raises(InvalidSetting, match=r"a network file system \(nfs4\)"):
        restore(tmp_path / "backup", tmp_path / "share" / "data")
    # One machine alone writes to what its host shares with it: `doctor` warns, and no more.
    Writer(tmp_path / "vm" / "data", lambda: 1).close()

    assert "local disk" in refused.value.hint
    assert not (tmp_path / "share").exists()


def test_a_small_disk_of_its_own_is_no_network(disk: Callable[..., Path]) -> None:
    data = disk() / "data"

    Writer(data, lambda: 1).close()

    assert file_systems.file_system_of(data) == "tmpfs"


@pytest.mark.parametrize("command", [["ps"], ["status", "@last"], ["rebuild"], ["verify"], ["doctor"]])
def test_a_broken_pointer_is_told_by_every_command_with_what_is_safe(tmp_path: Path, command: list[str]) -> None:
    record(tmp_path)
    (tmp_path / "CURRENT").write_text("the newest\n")
    before = contents(tmp_path)

    done = runfold(tmp_path, *command)

    assert done.returncode == 1
    assert "does not hold a number" in done.stderr + done.stdout
    assert "delete it; the views are folded anew from the log" in done.stderr + done.stdout
    assert {name: content for name, content in contents(tmp_path).items() if name != "rebuild.lock"} == before

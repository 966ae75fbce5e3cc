"""A log of the format before this one is brought forward with all that it holds, once, or stays as it is."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.bringing_forward import bring_forward
from eventstore.damage import UNOPENED_HINT, is_of_disk
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.preparing import prepare
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import SCHEMA, Writer
from runfold.envelope import NewEvent
from runfold.errors import BadRequest, Damaged
from runfold.ordered_ids import ordered_id
from tests.format_1 import bring_back, rows
from tests.tampering import find, write_log
from tests.terminal import runfold, started, wait_for_word


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A folder whose log was made by a runfold that knew format 1."""
    data = tmp_path / "data"
    await write_log(data)
    bring_back(data / LOG_FILE)
    return data


async def test_all_that_a_log_held_is_there_and_holds_and_it_goes_on(data: Path) -> None:
    before = rows(data / LOG_FILE)

    await (await SqliteLog.open(data)).close()

    # What is not yet sealed is when a log is closed.
    assert rows(data / LOG_FILE)[:3] == before[:3]
    assert find(data) == []
    done = runfold(data, "run", "--", "true")
    assert (done.returncode, find(data)) == (0, [])


@pytest.mark.slow
async def test_whatever_starts_to_write_brings_it_forward_first(data: Path) -> None:
    copy, other = data.with_name("copy"), data.with_name("other")
    shutil.copytree(data, copy)
    shutil.copytree(data, other)

    ran = runfold(data, "run", "--", "true")
    with started(copy, "up", "--no-browser") as server:
        wait_for_word(server, "serving")
    ingested = runfold(other, "ingest")

    assert (ran.returncode, ingested.returncode) == (0, 0)
    assert [find(folder) for folder in (data, copy, other)] == [[], [], []]
    assert "is brought forward, once" in ran.stderr
    assert "is brought forward, once" in ingested.stderr


async def test_what_is_deleted_later_is_nowhere_in_the_file(data: Path) -> None:
    words = b'"text":"batch 2"'
    had = words in (data / LOG_FILE).read_bytes()

    with closing(Writer(data, lambda: 1)) as writer:
        with writer.rewriting("test", lifting=("events_remain",)) as rewriting:
            rewriting.connection.execute("DELETE FROM events")
        is_gone = writer.scrub()

    assert (had, is_gone, words in (data / LOG_FILE).read_bytes()) == (True, True, False)


async def test_who_only_reads_is_told_how_it_is_brought_forward_and_changes_nothing(data: Path) -> None:
    before = (data / LOG_FILE).read_bytes()

    with pytest.raises(BadRequest, match=r"older runfold \(format 1, known 2\)") as error:
        open_reader(data)

    assert "`runfold up` brings the log of a data folder forward" in (error.value.hint or "")
    assert (data / LOG_FILE).read_bytes() == before


async def test_who_fails_on_the_way_leaves_the_log_as_it_was(data: Path) -> None:
    before = rows(data / LOG_FILE)
    steps = [0]

    def stop() -> bool:
        steps[0] += 1
        return steps[0] == 40

    with closing(sqlite3.connect(data / LOG_FILE, isolation_level=None)) as file:
        file.set_progress_handler(stop, 100)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            bring_forward(file, SCHEMA.read_text())
        file.set_progress_handler(None, 0)
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        assert file.execute("SELECT name FROM sqlite_schema WHERE name = 'run_blocks'").fetchall() == []

    assert rows(data / LOG_FILE) == before
    await (await SqliteLog.open(data)).close()
    assert find(data) == []


async def test_a_log_for_which_there_is_no_room_is_told_and_stays(data: Path) -> None:
    before = rows(data / LOG_FILE)
    with closing(sqlite3.connect(data / LOG_FILE, isolation_level=None)) as file:
        file.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError, match="full") as error:
            bring_forward(file, SCHEMA.read_text())

    assert is_of_disk(error.value)
    assert rows(data / LOG_FILE) == before


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA ignore_check_constraints = ON; UPDATE events SET salt = NULL, digest = NULL WHERE position = 9",
        "ALTER TABLE events RENAME COLUMN cause TO causes",
        "DROP TABLE events",
    ],
)
async def test_a_log_that_is_damaged_is_told_and_stays(data: Path, change: str) -> None:
    with closing(sqlite3.connect(data / LOG_FILE, isolation_level=None)) as file:
        file.executescript("DROP TRIGGER events_stay;" + change)
    before = (data / LOG_FILE).read_bytes()

    with pytest.raises(Damaged, match="the log's file is damaged") as error:
        Writer(data, lambda: 1)

    assert error.value.hint == UNOPENED_HINT
    assert (data / LOG_FILE).read_bytes() == before


async def test_what_somebody_added_to_the_file_is_in_nobodys_way(data: Path) -> None:
    with closing(sqlite3.connect(data / LOG_FILE, isolation_level=None)) as file:
        file.execute('CREATE INDEX "by kind, ""mine""" ON events (type)')

    Writer(data, lambda: 1).close()

    assert find(data) == []


async def test_a_server_that_still_runs_on_the_code_of_before_goes_on(data: Path) -> None:
    """It has the file open, and knows nothing of blocks."""
    event = NewEvent(id=ordered_id(), type="x", data=b"{}", at_us=1, tenant="default", actor="user:t")
    with closing(sqlite3.connect(data / LOG_FILE, isolation_level=None)) as old:
        old.execute("SELECT count(*) FROM events").fetchone()
        with closing(Writer(data, lambda: 1)) as writer:
            writer.append([prepare("r_new", [event], 0)])
        names = "run_id, version, id, type, schema, at_us, recorded_at_us, tenant, actor, correlation, salt, data, hash"
        old.execute(
            f"INSERT INTO events (position, {names})"
            f" SELECT position + 1, {names.replace('version, id', 'version + 1, randomblob(16)')} FROM events"
            " WHERE run_id = 'r_new'"
        )
        found = old.execute("SELECT count(*) FROM events WHERE run_id = 'r_new'").fetchone()
        blocks = old.execute("SELECT run_id FROM run_blocks WHERE run_id = 'r_new'").fetchall()

    assert (found, blocks) == ((2,), [("r_new",)])

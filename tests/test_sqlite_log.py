"""What the log on SQLite promises beyond the contract: of its file, of its readers, and of a stranger who edits it."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from eventstore.appending import append_group
from eventstore.chain import data_digest
from eventstore.log_file import open_reader
from eventstore.preparing import prepare
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.errors import BadRequest, Conflict, NotFound, Unavailable
from tests.contract.events import all_events, new_event, numbered, tailed
from tests.sqlite_logs import filled, problems, stranger


async def test_t14_a_position_is_not_used_again_when_the_newest_rows_are_gone(tmp_path: Path) -> None:
    positions = await filled(tmp_path)
    with closing(stranger(tmp_path)) as connection:
        connection.execute("DROP TRIGGER events_remain")
        connection.execute("DELETE FROM events WHERE position > ?", (positions[2],))

    log = await SqliteLog.open(tmp_path)
    added = await log.append("r_new", [new_event()], expected=0)
    await log.close()

    assert added.first > positions[-1]


class _PausedBeforeCommit:
    """A connection that waits before its COMMIT until it is told to go on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.reached, self.go_on = threading.Event(), threading.Event()

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT":
            self.reached.set()
            assert self.go_on.wait(30)
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.slow
async def test_t31_what_is_not_committed_is_not_seen_and_no_reader_passes_it(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    first = (await log.append("r_a", [new_event()], expected=0)).last
    connection = sqlite3.connect(tmp_path / "log.db", isolation_level=None, check_same_thread=False)
    slow: Any = _PausedBeforeCommit(connection)
    request = prepare("r_slow", [new_event()], 0)
    following = asyncio.create_task(tailed(log, 2, after=first))

    committing = asyncio.create_task(asyncio.to_thread(append_group, slow, [request], lambda: 1))
    await asyncio.to_thread(slow.reached.wait, 30)
    appending = asyncio.create_task(log.append("r_b", [new_event()], expected=0))
    seen_meanwhile = (await log.bounds()).last, len(await all_events(log)), following.done()
    slow.go_on.set()
    await committing
    added = await appending
    seen = await following
    connection.close()
    await log.close()

    assert seen_meanwhile == (first, 1, False)
    assert [event.run_id for event in seen] == ["r_slow", "r_b"]
    assert seen[1] == added.events[0]


async def test_t37_readers_that_idle_do_not_hold_the_journal(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    last = (await log.append("r_a", numbered(0, 500), expected=0)).last
    async with aclosing(log.tail(after=0)) as tail, aclosing(log.read(after=0)) as read:
        await anext(tail)
        await anext(read)
        for _ in range(3):
            last = (await log.append("r_a", numbered(0, 500), expected=last)).last

        with closing(stranger(tmp_path)) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert (tmp_path / "log.db-wal").stat().st_size == 0
        assert (await anext(tail)).events
    await log.close()


TAMPERINGS: dict[str, str] = {
    "data": "UPDATE events SET data = x'7b7d' WHERE position = 2",
    "a time": "UPDATE events SET at_us = at_us + 1 WHERE position = 2",
    "when it was recorded": "UPDATE events SET recorded_at_us = recorded_at_us + 1 WHERE position = 2",
    "who did it": "UPDATE events SET actor = 'user:b' WHERE position = 2",
    "the tenant": "UPDATE events SET tenant = 'other' WHERE position = 2",
    "the type": "UPDATE events SET type = 'message' WHERE position = 2",
    "the salt": "UPDATE events SET salt = randomblob(16) WHERE position = 2",
    "the hash": "UPDATE events SET hash = randomblob(32) WHERE position = 2",
    "the run": "UPDATE events SET run_id = 'r_1', version = 9 WHERE position = 2",
    "a middle row deleted": "DELETE FROM events WHERE position = 2",
    "the newest rows deleted": "DELETE FROM events WHERE position > 5",
    "a whole run deleted": "DELETE FROM events WHERE run_id = 'r_1'; DELETE FROM heads WHERE run_id = 'r_1'",
    "two rows swapped": "UPDATE events SET position = 99 WHERE position = 1;"
    "UPDATE events SET position = 1 WHERE position = 2; UPDATE events SET position = 2 WHERE position = 99",
    "a row replaced": "INSERT OR REPLACE INTO events SELECT position, run_id, version, randomblob(16), type, schema,"
    " at_us, recorded_at_us, tenant, actor, cause, command, sent, correlation, salt, data, digest, hash"
    " FROM events WHERE position = 2",
    "a head": "UPDATE heads SET version = 9 WHERE run_id = 'r_1'",
    "an anchor": "UPDATE anchors SET digest = randomblob(32)",
}


@pytest.mark.parametrize("sql", TAMPERINGS.values(), ids=TAMPERINGS)
async def test_t28_a_change_made_behind_the_logs_back_is_found(tmp_path: Path, sql: str) -> None:
    await filled(tmp_path)
    assert problems(tmp_path) == []

    with closing(stranger(tmp_path)) as connection:
        for name in ("events_stay", "events_remain"):
            connection.execute(f"DROP TRIGGER {name}")
        connection.executescript(sql)

    assert problems(tmp_path) != []


async def test_t29_a_redacted_event_keeps_the_chain(tmp_path: Path) -> None:
    positions = await filled(tmp_path)
    redact = "UPDATE events SET digest = ?, data = NULL, salt = NULL WHERE position = ?"

    with closing(stranger(tmp_path)) as connection:
        for position, salt, data in connection.execute("SELECT position, salt, data FROM events").fetchall()[1:2]:
            connection.execute(redact, (data_digest(salt, data), position))

    assert problems(tmp_path) == []
    log = await SqliteLog.open(tmp_path)
    assert [event.data is None for event in await all_events(log)] == [False, True, *[False] * (len(positions) - 2)]
    await log.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE events SET data = x'7b7d' WHERE position = 1",
        "UPDATE events SET hash = randomblob(32), data = NULL, salt = NULL, digest = x'00' WHERE position = 1",
        "DELETE FROM events WHERE position = 1",
    ],
)
async def test_t66_history_edited_by_accident_is_refused(tmp_path: Path, sql: str) -> None:
    await filled(tmp_path)

    with closing(stranger(tmp_path)) as connection, pytest.raises(sqlite3.IntegrityError, match="of the log are never"):
        connection.execute(sql)

    assert problems(tmp_path) == []


@pytest.mark.slow
async def test_t63_a_copy_made_while_others_write_opens_verifies_and_goes_on(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "a")
    copy = tmp_path / "b"
    copy.mkdir()

    async def write(stream: str) -> None:
        last = 0
        for number in range(60):
            last = (await log.append(stream, numbered(number, 3), expected=last)).last

    def backup() -> None:
        with closing(stranger(tmp_path / "a")) as connection:
            connection.execute("VACUUM INTO ?", (str(copy / "log.db"),))

    await asyncio.gather(write("r_a"), write("r_b"), asyncio.to_thread(backup), write("r_c"))
    reopened = await SqliteLog.open(copy)
    events = await all_events(reopened)
    originals = await all_events(log)
    last = await reopened.last("r_new")
    added = await reopened.append("r_new", [new_event()], expected=0)
    assert (await reopened.bounds()).log_id == (await log.bounds()).log_id
    await reopened.close()
    await log.close()

    assert events == originals[: len(events)]
    assert last is None
    assert added.first > (events[-1].position if events else 0)
    assert problems(copy) == []


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA application_id = 0x52554E46; PRAGMA user_version = 3; CREATE TABLE head (a)")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of another program": (foreign, "belongs to another program"),
    "of a newer runfold": (newer, "is of a newer runfold"),
    "no database": (lambda path: path.write_bytes(b"a letter to my aunt" * 300), "is not a SQLite file"),
}


@pytest.mark.parametrize(("make", "says"), REFUSED.values(), ids=REFUSED)
async def test_t64_a_file_that_is_not_ours_is_refused_and_left_as_it_was(
    tmp_path: Path, make: Callable[[Path], Any], says: str
) -> None:
    make(tmp_path / "log.db")
    before = (tmp_path / "log.db").read_bytes()

    with pytest.raises(BadRequest, match=says):
        await SqliteLog.open(tmp_path)

    assert (tmp_path / "log.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["log.db"]


async def test_an_empty_file_is_no_log_to_a_reader_and_becomes_one_for_a_writer(tmp_path: Path) -> None:
    (tmp_path / "log.db").touch()
    with pytest.raises(NotFound, match="is empty"):
        open_reader(tmp_path)

    await filled(tmp_path)

    assert problems(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "log.lock").mkdir()

    with pytest.raises(Unavailable, match="cannot be opened for writing") as refused:
        await SqliteLog.open(tmp_path)

    assert "--data" in refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["log.lock"]


async def test_the_anchors_of_a_writer_that_does_not_read_again_are_those_of_what_is_stored(tmp_path: Path) -> None:
    log, other = await SqliteLog.open(tmp_path), await SqliteLog.open(tmp_path)
    last = 0
    for start in range(0, 2_500, 250):
        last = (await log.append("r_a", numbered(start, 250), expected=last)).last
    await other.append("r_b", numbered(0, 100), expected=0)
    for start in range(0, 2_500, 250):
        last = (await log.append("r_a", numbered(start, 250), expected=last)).last
    await other.close()
    await log.close()

    with closing(open_reader(tmp_path)) as connection:
        anchors = [position for (position,) in connection.execute("SELECT position FROM anchors ORDER BY position")]

    assert anchors == [1_000, 2_000, 3_100, 4_100, 5_100]
    assert problems(tmp_path) == []


async def test_who_follows_one_run_learns_that_the_others_went_on(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    first = (await log.append("r_a", [new_event()], expected=0)).last
    async with aclosing(log.tail(after=first, stream="r_a")) as pages:
        coming = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(0)
        other = (await log.append("r_b", [new_event()], expected=0)).last
        passed = await coming
        mine = (await log.append("r_a", [new_event()], expected=first)).last
        found = await anext(pages)
    await log.close()

    assert (passed.events, passed.scanned_to) == ((), other)
    assert [event.position for event in found.events] == [mine]


async def test_a_log_knows_what_another_has_appended_to_a_run_that_it_remembers(tmp_path: Path) -> None:
    log, other = await SqliteLog.open(tmp_path), await SqliteLog.open(tmp_path)
    theirs = new_event()
    first = (await log.append("r_a", [new_event()], expected=0)).last
    second = (await other.append("r_a", [theirs], expected=first)).last

    with pytest.raises(Conflict):
        await log.append("r_a", [new_event()], expected=first)
    again = await log.append("r_a", [theirs], expected=first)
    third = await log.append("r_a", [new_event()], expected=second)
    await other.close()
    await log.close()

    assert (again.first, again.duplicate) == (second, True)
    assert third.version == 3
    assert problems(tmp_path) == []

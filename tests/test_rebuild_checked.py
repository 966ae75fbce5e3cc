"""What a rebuild folds is what was appended: a log that was altered is refused by name, and nothing is switched."""

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.proof import checking_beside
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.generations import current_generation
from projections.engine.rebuilding import rebuild
from projections.engine.views import Views
from runfold.errors import Damaged
from runfold.events import Message, RunQueued
from tests.histories import append
from tests.rebuilds import rows, write
from tests.tampering import edit, leave
from tests.terminal import runfold

POSITION = 1_100  # On the third page of those that are checked together.


async def write_long(data: Path) -> None:
    log = await SqliteLog.open(data)
    for number in range(4):
        await append(log, f"r_{number}", RunQueued(), Message(text="first"))
        await append(log, f"r_{number}", *(Message(text="m") for _ in range(398)))
    await log.close()


def edited(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE events SET data = ? WHERE position = ?", (b'{"text":"altered"}', POSITION))


def retold(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE events SET actor = 'user:mallory' WHERE position = ?", (POSITION,))


def deleted(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM events WHERE position = ?", (POSITION,))


def moved(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE events SET recorded_at_us = recorded_at_us + 1 WHERE position = ?", (POSITION,))


def put_beyond_the_calendar(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE events SET at_us = 1 << 60 WHERE position = ?", (POSITION,))


def made_unreadable(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE events SET actor = CAST(x'ff' AS TEXT) WHERE position = ?", (POSITION,))


TAMPERINGS: list[Callable[[sqlite3.Connection], None]] = [
    edited, retold, deleted, moved, put_beyond_the_calendar, made_unreadable,
]  # fmt: skip


@pytest.fixture(params=["here", "beside", "beside, in two"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A short log is checked in the process that folds it, a long one in others."""
    if request.param != "here":
        monkeypatch.setattr(checking_beside, "CHECKED_HERE_EVENTS", 0)
    return 2 if request.param == "beside, in two" else 1


@pytest.mark.slow
@pytest.mark.parametrize("tamper", TAMPERINGS)
async def test_a_rebuild_refuses_a_log_that_was_altered_and_changes_nothing(
    tmp_path: Path, workers: int, tamper: Callable[[sqlite3.Connection], None]
) -> None:
    await write_long(tmp_path)
    before = rows(tmp_path)
    connection = edit(tmp_path)
    tamper(connection)
    leave(connection)

    with pytest.raises(Damaged) as raised:
        rebuild(tmp_path, workers=workers)

    assert "event" in raised.value.message
    assert current_generation(tmp_path) == 1
    assert [path.name for path in tmp_path.glob("views.*.db")] == ["views.1.db"]
    with closing(Views.open(tmp_path)) as views:
        assert sorted(views.connection.execute("SELECT * FROM runs"), key=repr) == before["runs"]


@pytest.mark.slow
async def test_a_log_that_matches_is_rebuilt(tmp_path: Path, workers: int) -> None:
    await write_long(tmp_path)
    before = rows(tmp_path)

    rebuilt = rebuild(tmp_path, workers=workers)

    assert (rebuilt.position, current_generation(tmp_path)) == (1_600, 2)
    assert rows(tmp_path) == before


async def test_views_that_cannot_be_used_are_folded_up_to_the_damage_and_say_stale(tmp_path: Path) -> None:
    await write_long(tmp_path)
    rows(tmp_path)
    connection = edit(tmp_path)
    edited(connection)
    leave(connection)
    for path in tmp_path.glob("views.1.db*"):
        path.write_bytes(b"not a database any more" * 1_000)

    with closing(Views.open(tmp_path)) as views:
        freshness = views.refresh()
        listed = {run_id for (run_id,) in views.connection.execute("SELECT run_id FROM runs")}

    assert freshness.stale
    assert freshness.position < POSITION
    assert listed == {"r_0", "r_1", "r_2"}


@pytest.mark.slow
async def test_the_command_names_the_damage_and_what_to_do(tmp_path: Path) -> None:
    await write(tmp_path, runs=3)
    rows(tmp_path)
    position = random.Random(1).randrange(1, 9)
    connection = edit(tmp_path)
    connection.execute("UPDATE events SET actor = 'user:mallory' WHERE position = ?", (position,))
    leave(connection)

    refused = runfold(tmp_path, "rebuild")

    assert refused.returncode != 0
    assert f"event {position}" in refused.stderr
    assert "runfold verify" in refused.stderr

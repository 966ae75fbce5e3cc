"""The views are a fold of the log: rebuilt, caught up, restarted, restored, they tell what the log tells."""

import asyncio
import fcntl
import os
import random
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.log_file import open_reader
from eventstore.mirrored import Mirrored, note_mirrored
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.engine.rebuilding import rebuild
from projections.engine.view import Decoded, View, decode_run
from projections.engine.views import Views
from projections.history import run_history
from projections.lately import FRESH_SECONDS, OLD_SECONDS
from projections.run_list import RunFilter, list_runs
from projections.runs import active_runs, get_run
from projections.service import ViewService
from runfold.envelope import SYSTEM_STREAM, Fact, Recorded, time_text
from runfold.events import Message, RunCompleted, RunPaused, RunQueued, RunResumed, RunStarted, decode_data
from runfold.evolve import CHANGING_NOTHING, evolve, fold
from runfold.state import Run, new_run
from tests.histories import CREATED_US, append, write_courses
from tests.tampering import damage_table


def recorded_events(data: Path) -> list[Recorded]:
    connection, events, after = open_reader(data), list[Recorded](), 0
    while page := read_page(connection, after=after).events:
        events += page
        after = page[-1].position
    connection.close()
    return [recorded for recorded in events if recorded.run_id != SYSTEM_STREAM]


def refolded(events: list[Recorded]) -> tuple[dict[str, tuple[Run, int]], list[tuple[Any, ...]]]:
    """The oracle: every run folded one event at a time, and every change of a status."""
    runs: dict[str, tuple[Run, int]] = {}
    changes: list[tuple[Any, ...]] = []
    for recorded in events:
        before = runs.get(recorded.run_id, (new_run(recorded.run_id), 0))[0]
        after = fold(before, [recorded])
        runs[recorded.run_id] = (after, recorded.position)
        if before.status != after.status:
            changes.append((recorded.position, recorded.run_id, before.status, after.status, after.reason_code))
    return runs, changes


def rows(views: Views) -> tuple[dict[str, tuple[Run, int]], list[tuple[Any, ...]]]:
    runs = {
        row[0]: (decode_run(row[1]), row[2])
        for row in views.connection.execute("SELECT run_id, body, position FROM runs")
    }
    changes = views.connection.execute(
        "SELECT position, run_id, from_status, to_status, reason_code FROM history ORDER BY position"
    ).fetchall()
    return runs, changes


@pytest.fixture
async def log(tmp_path: Path) -> Any:
    log = await SqliteLog.open(tmp_path)
    yield log
    await log.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("page_events", [1, 7, 500])
async def test_rows_equal_a_refold_of_every_prefix(log: SqliteLog, tmp_path: Path, seed: int, page_events: int) -> None:
    chance = random.Random(seed)
    views = Views.open(tmp_path, page_events=page_events)

    for _ in range(12):
        await write_courses(log, chance, appends=chance.randrange(1, 8))
        freshness = views.refresh()
        if chance.random() < 0.3:
            views.close()
            views = Views.open(tmp_path, page_events=page_events)

        assert not freshness.stale
        assert rows(views) == refolded(recorded_events(tmp_path))
    views.close()


async def test_two_that_take_turns_with_warm_memory_never_fold_twice_or_miss(log: SqliteLog, tmp_path: Path) -> None:
    chance = random.Random(5)
    pair = [Views.open(tmp_path, page_events=3), Views.open(tmp_path, page_events=5)]

    for number in range(40):
        await write_courses(log, chance, appends=4, runs=4)
        freshness = pair[number % 2].refresh()

        assert (freshness.position, freshness.stale) == ((await log.bounds()).last, False)
    assert rows(pair[0]) == rows(pair[1]) == refolded(recorded_events(tmp_path))
    for views in pair:
        views.close()


async def test_a_restored_older_log_discards_the_views(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await write_courses(log, random.Random(1), appends=20)
    await log.close()
    shutil.copy(tmp_path / "log.db", tmp_path / "older.db")
    shutil.copy(tmp_path / "anchors.jsonl", tmp_path / "older.jsonl")
    log = await SqliteLog.open(tmp_path)
    await write_courses(log, random.Random(2), appends=20)
    await log.close()
    views = Views.open(tmp_path)
    views.refresh()
    before = rows(views)

    for name in ("log.db-wal", "log.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    os.replace(tmp_path / "older.db", tmp_path / "log.db")
    os.replace(tmp_path / "older.jsonl", tmp_path / "anchors.jsonl")
    freshness = views.refresh()

    assert rows(views) == refolded(recorded_events(tmp_path)) != before
    assert not freshness.stale
    # The restored log goes on differently, up to and past the position where the views had been.
    log = await SqliteLog.open(tmp_path)
    await write_courses(log, random.Random(3), appends=30)
    views.refresh()
    assert rows(views) == refolded(recorded_events(tmp_path))
    views.close()
    await log.close()


async def test_another_history_at_the_same_position_is_noticed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    log = await SqliteLog.open(data)
    await append(log, "r_a", RunQueued())
    await log.close()
    shutil.copytree(data, tmp_path / "fork")
    for folder, title in ((data, "left"), (tmp_path / "fork", "right")):
        log = await SqliteLog.open(folder)
        await append(log, "r_b", RunQueued(title=title))
        await log.close()
    views = Views.open(data)
    views.refresh()
    views.close()

    for file in data.glob("log.db*"):
        file.unlink()
    for name in ("log.db", "anchors.jsonl"):
        shutil.copy(tmp_path / "fork" / name, data / name)
    views = Views.open(data)
    views.refresh()

    found = get_run(views.connection, "r_b", tenant=None)
    views.close()
    assert found is not None
    assert found.title == "right"


def test_without_a_log_there_is_nothing_and_that_is_fresh(tmp_path: Path) -> None:
    views = Views.open(tmp_path)

    freshness = views.refresh()

    assert (freshness.position, freshness.stale) == (0, False)
    assert list_runs(views.connection, RunFilter(tenant=None)).total == 0
    views.close()


async def test_a_wait_that_runs_out_answers_and_says_stale(log: SqliteLog, tmp_path: Path) -> None:
    views = Views.open(tmp_path)
    await append(log, "r_a", RunQueued())

    with (tmp_path / "views.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        held = views.refresh(wait_seconds=0.01)
    released = views.refresh()

    views.close()
    assert (held.position, held.stale) == (0, True)
    assert not released.stale


async def test_views_that_somebody_holds_are_stale_for_as_long_as_he_does(log: SqliteLog, tmp_path: Path) -> None:
    views = Views.open(tmp_path)
    views.connection.execute("PRAGMA busy_timeout = 1")
    await append(log, "r_a", RunQueued())

    with closing(sqlite3.connect(views.path, isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        held = views.refresh()
        somebody.execute("ROLLBACK")
    released = views.refresh()

    views.close()
    assert (held.position, held.stale) == (0, True)
    assert not released.stale


async def test_views_of_another_revision_are_read_only_and_stale_until_rebuilt(log: SqliteLog, tmp_path: Path) -> None:
    await append(log, "r_a", RunQueued())
    old = Views.open(tmp_path)
    old.refresh()
    newer = tuple(
        View(name=view.name, revision=99, tables=view.tables, ddl=view.ddl, make_fold=view.make_fold) for view in VIEWS
    )
    await append(log, "r_b", RunQueued())
    new = Views.open(tmp_path, views=newer)

    before = new.refresh()
    seen_before = list_runs(new.connection, RunFilter(tenant=None)).total
    generation = rebuild(tmp_path, views=newer).generation
    after = new.refresh()

    assert (before.stale, seen_before) == (True, 1)
    assert (after.stale, list_runs(new.connection, RunFilter(tenant=None)).total, generation) == (False, 2, 2)
    old.close()
    new.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written_is_read_and_says_stale_when_behind(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await append(log, "r_a", RunQueued())
    views = Views.open(tmp_path)
    views.refresh()
    views.close()
    await append(log, "r_b", RunQueued())
    await log.close()
    tmp_path.chmod(0o500)
    try:
        views = Views.open(tmp_path)

        freshness = views.refresh()

        assert freshness.stale
        assert list_runs(views.connection, RunFilter(tenant=None)).total == 1
        views.close()
    finally:
        tmp_path.chmod(0o700)


class FailingFold:
    """Refuses one event for ever."""

    def apply(self, connection: Any, recorded: Fact, event: Decoded) -> None:
        if recorded.position == 3:
            raise ValueError("cannot take it")

    def write(self, connection: Any) -> None:
        connection.execute("INSERT INTO failing VALUES (1)")

    def forget(self) -> None:
        pass


async def test_a_fold_that_fails_parks_its_own_view_and_no_other(log: SqliteLog, tmp_path: Path) -> None:
    failing = View(
        name="failing",
        revision=1,
        tables=("failing",),
        ddl=("CREATE TABLE failing (one INTEGER) STRICT",),
        make_fold=FailingFold,
    )
    await append(log, "r_a", RunQueued(), RunStarted(), RunPaused(), RunResumed())
    views = Views.open(tmp_path, views=(*VIEWS, failing))

    freshness = views.refresh()
    await append(log, "r_a", RunCompleted(reason_code="EXIT_ZERO"))
    freshness = views.refresh()

    checkpoints = views.checkpoints()
    assert (freshness.position, freshness.stale, freshness.parked) == (2, True, ("failing",))
    assert "event 3" in checkpoints["failing"].error
    assert checkpoints["runs"].position == checkpoints["history"].position == (await log.bounds()).last
    views.close()


async def test_the_service_answers_with_what_was_just_appended(log: SqliteLog, tmp_path: Path) -> None:
    service = await ViewService.open(tmp_path)
    await append(log, "r_a", RunQueued(title="first"))

    run, freshness = await service.query(get_run, "r_a", tenant="default")

    assert run is not None
    assert (run.title, freshness.stale) == ("first", False)
    await service.close()


async def test_history_says_how_long_each_status_lasted(log: SqliteLog, tmp_path: Path) -> None:
    await append(log, "r_a", RunQueued(), at_us=CREATED_US)
    await append(log, "r_a", RunStarted(), Message(text="m"), at_us=CREATED_US + 2_000_000)
    await append(log, "r_a", RunCompleted(reason_code="EXIT_ZERO"), at_us=CREATED_US + 5_000_000)
    views = Views.open(tmp_path)
    views.refresh()

    transitions = run_history(views.connection, "r_a")

    assert [(one.from_status, one.to_status, one.duration_ms) for one in transitions] == [
        (None, "queued", 2_000),
        ("queued", "running", 3_000),
        ("running", "completed", None),
    ]
    assert run_history(views.connection, "r_a", tenant="other") == []
    views.close()


async def test_a_snapshot_carries_the_position_of_the_runs_last_event(log: SqliteLog, tmp_path: Path) -> None:
    await append(log, "r_a", RunQueued(title="a"))
    await append(log, "r_b", RunQueued(title="b"))
    views = Views.open(tmp_path)
    views.refresh()

    run = get_run(views.connection, "r_a", tenant=None)

    assert run is not None
    assert (run.position, run.version, run.created_at) == (1, 1, time_text(CREATED_US))
    views.close()


@pytest.mark.parametrize("damage", ["garbage", "foreign", "holes"])
async def test_a_views_file_that_cannot_be_used_is_folded_anew(log: SqliteLog, tmp_path: Path, damage: str) -> None:
    await write_courses(log, random.Random(7), appends=100)
    path = tmp_path / "views.1.db"
    with closing(Views.open(tmp_path)) as views:
        views.refresh()
        wanted = list_runs(views.connection, RunFilter(tenant=None))
        views.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if damage == "garbage":
        path.write_bytes(b"not a database at all" * 1_000)
    elif damage == "foreign":
        path.unlink()
        with closing(sqlite3.connect(path)) as foreign:
            foreign.execute("CREATE TABLE runs (something TEXT)")
    else:
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    with closing(Views.open(tmp_path)) as views:
        freshness = views.refresh()
        found = list_runs(views.connection, RunFilter(tenant=None))

    assert not freshness.stale
    assert found == wanted
    assert [item.name for item in tmp_path.glob("views.*.db")] == ["views.2.db"]


async def test_views_of_which_only_a_question_meets_the_damage_are_folded_anew(log: SqliteLog, tmp_path: Path) -> None:
    await append(log, "r_a", RunQueued())
    with closing(Views.open(tmp_path)) as views:
        views.refresh()
        wanted = list_runs(views.connection, RunFilter(tenant=None))
    damage_table(tmp_path / "views.1.db", "runs")

    views = await ViewService.open(tmp_path)
    try:
        found, freshness = await views.query(list_runs, RunFilter(tenant=None))
    finally:
        await views.close()

    assert (found, freshness.stale) == (wanted, False)


async def test_a_mirror_of_which_a_page_is_damaged_takes_no_views_with_it(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await append(log, "r_a", RunQueued())
    place = await log.bounds()
    await log.close()
    note_mirrored(tmp_path, Mirrored(address="nats://127.0.0.1:1/log", log_id=place.log_id))
    Views.open(tmp_path).close()
    damage_table(tmp_path / "log.db", "events")

    with closing(Views.open(tmp_path)) as views:
        freshness = views.refresh()

    assert (freshness.position, freshness.stale) == (0, True)
    assert [path.name for path in tmp_path.glob("views.*.db")] == ["views.1.db"]


UNDECODED = {
    "subprocess_output": b'{"text": "line"}',
    "message": b'{"text": "hello"}',
    "reasoning": b'{"text": "hm"}',
    "file_read": b'{"path": "a.py"}',
}


@pytest.mark.parametrize("name", sorted(CHANGING_NOTHING))
def test_an_event_whose_data_the_fold_never_decodes_would_change_nothing(name: str) -> None:
    event = decode_data(name, UNDECODED[name])
    run = new_run("r_a")

    after = evolve(run, event, at_us=5)

    assert event is not None
    assert after == msgspec.structs.replace(run, version=1, updated_at_us=5)


async def test_what_may_be_some_seconds_old_is_answered_without_waiting_for_the_fold(
    log: SqliteLog, tmp_path: Path
) -> None:
    clock = [0.0]
    views = await ViewService.open(tmp_path, now_seconds=lambda: clock[0])
    try:
        known = [len(await views.query_lately(active_runs))]
        await append(log, "r_1", RunQueued(), RunStarted())
        clock[0] = FRESH_SECONDS
        known.append(len(await views.query_lately(active_runs)))
        # What is asked behind it stands in the line of queries before what is asked now.
        await asyncio.sleep(0)
        await views.query(active_runs)
        known.append(len(await views.query_lately(active_runs)))
        await append(log, "r_2", RunQueued(), RunStarted())
        clock[0] += OLD_SECONDS
        known.append(len(await views.query_lately(active_runs)))
    finally:
        await views.close()

    assert known == [0, 0, 1, 2]

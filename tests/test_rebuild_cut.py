"""A rebuild that is cut, watched or refused: what is served stays whole, and nobody is sent back."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.engine import rebuilding
from projections.engine.generations import CURRENT_FILE
from projections.engine.rebuilding import rebuild
from projections.engine.sharing import wait_for_helper
from projections.engine.views import Views
from runfold.errors import BadRequest, Contended, InvalidSetting
from runfold.events import Message
from tests.histories import new_event
from tests.rebuilds import cut_after, refreshed, rows, write

ROOT = Path(__file__).parent.parent

# As `CUT` with two processes: the first one stops when it has folded so many events, and is killed when the second has.
CUT_BOTH = """
import os, signal, sqlite3, sys, threading
from contextlib import closing, suppress
from pathlib import Path
from projections.engine import rebuilding
from projections.engine.sharing import part_file
rebuilding.PAGE_EVENTS_BUILDING = 7
data, wanted = Path(sys.argv[1]), int(sys.argv[2])
part = part_file(data / "views.2.db")
def kill():
    while True:
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as folded:
            if folded.execute("SELECT position FROM checkpoints WHERE view = 'runs'").fetchone()[0] >= wanted:
                os.kill(os.getpid(), signal.SIGKILL)
def progress(done, total):
    if done >= wanted:
        kill()
rebuilding.rebuild(data, workers=2, on_progress=progress)
"""


def cut_both_at(data: Path, position: int) -> int:
    """Cut a rebuild where both processes have folded so many events at least; how many both have."""
    killed = subprocess.run([sys.executable, "-c", CUT_BOTH, str(data), str(position)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    wait_for_helper(data)
    reached: list[int] = []
    for name, view in (("views.2.db", "audit"), ("views.2.db-part", "runs")):
        with contextlib.closing(sqlite3.connect(data / name)) as half:
            reached += half.execute("SELECT position FROM checkpoints WHERE view = ?", (view,)).fetchone()
    return min(reached)


def mark(file: Path) -> None:
    """Change a row that later events leave alone: where it is found again, it was not folded again."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as half:
        assert half.execute("UPDATE runs SET retry_of = 'marked' WHERE run_id = 'r_0'").rowcount == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_rebuild_by_two_that_was_cut_goes_on_in_both_parts(tmp_path: Path, workers: int) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)
    reached = cut_both_at(tmp_path, 63)
    mark(tmp_path / "views.2.db-part")

    rebuilt = rebuild(tmp_path, workers=workers)

    after = rows(tmp_path)
    marked = [row for row in after["runs"] if "marked" in row]
    assert rebuilt.folded_from == reached >= 63
    assert [row[0] for row in marked] == ["r_0"]
    assert {**after, "runs": None} == {**before, "runs": None}
    assert len(after["runs"]) == len(before["runs"])
    assert list(tmp_path.glob("views.2.db-part*")) == []


@pytest.mark.slow
async def test_a_rebuild_by_two_tells_how_far_the_second_is_when_the_first_is_done(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    cut_both_at(tmp_path, 120)
    (tmp_path / "views.2.db-part").unlink()
    told: list[tuple[int, int]] = []

    rebuild(tmp_path, workers=2, on_progress=lambda done, total: told.append((done, total)))

    assert told == [(120, 120)]


@pytest.mark.slow
async def test_a_rebuild_by_two_killed_at_random_points_harms_nothing(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)
    chance = random.Random(52)

    for at in sorted(chance.sample(range(1, 120), 5)):
        cut_both_at(tmp_path, at)
        assert rows(tmp_path) == before
    rebuild(tmp_path, workers=2)

    assert rows(tmp_path) == before


@pytest.mark.slow
async def test_a_part_of_another_making_is_begun_anew(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)
    cut_both_at(tmp_path, 63)
    part = tmp_path / "views.2.db-part"
    mark(part)
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as half:
        half.execute("UPDATE checkpoints SET fingerprint = 'of another runfold' WHERE view = 'timeline'")

    rebuild(tmp_path, workers=2)

    assert rows(tmp_path) == before


@pytest.mark.slow
async def test_t51_a_rebuild_killed_at_twenty_random_points_harms_nothing_and_the_next_goes_on(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)
    chance = random.Random(51)
    reached = 0

    for number in range(20):
        killed = cut_after(tmp_path, chance.randrange(1, 3))
        if killed.returncode == -signal.SIGKILL:
            reached += 1
        else:
            assert killed.returncode == 0, killed.stderr
        assert rows(tmp_path) == before, number
    ended = cut_after(tmp_path, 1_000)

    assert reached >= 15
    assert ended.returncode == 0, ended.stderr
    assert rows(tmp_path) == before


@pytest.mark.slow
async def test_a_rebuild_that_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)

    assert cut_after(tmp_path, 9).returncode == -signal.SIGKILL
    rebuilt = rebuild(tmp_path)

    assert rebuilt.folded_from == 63
    assert rows(tmp_path) == before


@pytest.mark.slow
async def test_a_rebuild_with_another_wish_begins_anew(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)

    assert cut_after(tmp_path, 9, "history").returncode == -signal.SIGKILL
    rebuilt = rebuild(tmp_path)

    assert (rebuilt.folded_from, rebuilt.copied) == (0, ())
    assert rows(tmp_path) == before


@pytest.mark.slow
async def test_a_half_built_generation_of_another_making_is_begun_anew(tmp_path: Path) -> None:
    await write(tmp_path, runs=40)
    assert cut_after(tmp_path, 9).returncode == -signal.SIGKILL
    newer = tuple(msgspec.structs.replace(view, revision=view.revision + 1) for view in VIEWS)

    rebuilt = rebuild(tmp_path, views=newer)

    assert rebuilt.folded_from == 0
    assert not refreshed(tmp_path, newer).stale
    assert refreshed(tmp_path).stale


@pytest.mark.slow
async def test_a_rebuild_that_was_cut_before_the_machine_started_anew_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(tmp_path, runs=40)
    before = rows(tmp_path)
    assert cut_after(tmp_path, 9).returncode == -signal.SIGKILL

    # What a power cut leaves of a file that nobody waited for may be anything.
    monkeypatch.setattr(rebuilding, "boot_id", lambda: "another boot")
    rebuilt = rebuild(tmp_path)

    assert rebuilt.folded_from == 0
    assert rows(tmp_path) == before


async def test_a_rebuilt_generation_has_the_tables_and_indexes_of_one_that_grew(tmp_path: Path) -> None:
    def schema() -> list[tuple[str, ...]]:
        views = Views.open(tmp_path)
        views.refresh()
        found = views.connection.execute("SELECT type, name FROM sqlite_schema ORDER BY 1, 2").fetchall()
        journal = views.connection.execute("PRAGMA journal_mode").fetchone()
        views.close()
        return [*found, journal]

    await write(tmp_path, runs=2)
    grown = schema()

    rebuild(tmp_path)

    assert schema() == grown


@pytest.mark.parametrize("content", [b"", b"not a database, but as long as the first page of one" * 99])
async def test_a_half_built_generation_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    await write(tmp_path, runs=3)
    before = rows(tmp_path)
    (tmp_path / "views.2.db").write_bytes(content)

    assert rebuild(tmp_path).folded_from == 0
    assert rows(tmp_path) == before


async def test_copied_views_that_lag_are_brought_to_the_head(tmp_path: Path) -> None:
    await write(tmp_path, runs=3)
    rows(tmp_path)
    log = await SqliteLog.open(tmp_path)
    await log.append("r_late", [new_event(Message(text="late"))], expected=0)
    await log.close()

    rebuilt = rebuild(tmp_path, only=("history",))

    assert rebuilt.copied == tuple(view.name for view in VIEWS if view.name != "history")
    assert not refreshed(tmp_path).stale
    assert len(rows(tmp_path)["runs"]) == 4


async def test_an_unknown_view_is_refused_and_a_second_rebuild_waits_for_nobody(tmp_path: Path) -> None:
    await write(tmp_path, runs=1)

    with pytest.raises(BadRequest, match="there is no view `colours`"):
        rebuild(tmp_path, only=("colours",))
    with pytest.raises(Contended, match="another process is rebuilding"):
        rebuild(tmp_path, on_progress=lambda done, total: rebuild(tmp_path))


def response(views: Views) -> tuple[int, int, bool]:
    """What one answer of a server holds: one snapshot, and how far it says it has looked."""
    freshness = views.refresh(wait_seconds=20)
    views.connection.execute("BEGIN")
    try:
        runs, version = views.connection.execute("SELECT count(*), coalesce(sum(version), 0) FROM runs").fetchone()
    finally:
        views.connection.execute("ROLLBACK")
    return freshness.position, version, runs * 3 == version


@pytest.mark.slow
async def test_t52_readers_during_the_switch_see_one_generation_each_and_never_go_back(tmp_path: Path) -> None:
    await write(tmp_path, runs=60)
    answers: list[list[tuple[int, int, bool]]] = [[], [], []]
    ended = threading.Event()

    def read(into: list[tuple[int, int, bool]]) -> None:
        with contextlib.closing(Views.open(tmp_path)) as views:
            while not ended.is_set():
                into.append(response(views))

    async def append() -> None:
        log = await SqliteLog.open(tmp_path)
        number = 1_000
        while not ended.is_set():
            events = [new_event(Message(text="a")), new_event(Message(text="b")), new_event(Message(text="c"))]
            await log.append(f"r_{number}", events, expected=0)
            number += 1
        await log.close()

    readers = [asyncio.create_task(asyncio.to_thread(read, into)) for into in answers]
    appending = asyncio.create_task(append())
    for _ in range(6):
        await asyncio.to_thread(rebuild, tmp_path)
    ended.set()
    await asyncio.gather(*readers, appending)
    refreshed(tmp_path)

    for seen in answers:
        assert seen
        assert [position for position, _, _ in seen] == sorted(position for position, _, _ in seen)
        assert all(whole and version >= position for position, version, whole in seen)
    assert [path.name for path in tmp_path.glob("views.*.db")] == ["views.7.db"]


async def test_a_generation_is_removed_when_its_last_reader_leaves_it(tmp_path: Path) -> None:
    await write(tmp_path, runs=2)
    reader = Views.open(tmp_path)
    reader.refresh()

    rebuild(tmp_path)
    while_read = (tmp_path / "views.1.db").exists()
    reader.refresh()
    after = (tmp_path / "views.1.db").exists()
    reader.close()

    assert (while_read, after) == (True, False)
    assert [path.name for path in tmp_path.glob("views.1.*")] == []


@pytest.mark.parametrize("content", [b"", b"two", b"0", b"-1", b"1\n2", b"\xff\xfe", b"99999999999999999999"])
async def test_a_broken_pointer_is_an_error_that_says_what_is_safe_and_changes_nothing(
    tmp_path: Path, content: bytes
) -> None:
    await write(tmp_path, runs=1)
    before = rows(tmp_path)
    (tmp_path / CURRENT_FILE).write_bytes(content)
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(InvalidSetting, match="does not hold a number") as raised:
        Views.open(tmp_path)

    assert "delete it" in (raised.value.hint or "")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held
    (tmp_path / CURRENT_FILE).unlink()
    assert rows(tmp_path) == before

"""Only what a view is parked at can be left out, and that is recorded with who said so; rebuilds and proofs obey it."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.drift import Drift
from projections.engine.rebuilding import rebuild
from projections.engine.skips import record_skip
from projections.engine.view import Decoded
from projections.engine.views import Views
from projections.runs import VIEW as RUNS
from projections.runs import RunsFold
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.events import Message, ViewEventSkipped
from tests.histories import new_event
from tests.rebuilds import refreshed, write
from tests.terminal import read, record, runfold


def park(data: Path, view: str) -> int:
    """Put a view back to before the run's last event, as parked; that event's position."""
    position: int = read(data, "ps")["items"][0]["position"]
    # A view is made by the first who reads it.
    read(data, "history", "@last")
    with closing(open_reader(data)) as log:
        before = read_page(log, after=position - 2, limit=1).events[0]
    with closing(sqlite3.connect(data / "views.1.db")) as views, views:
        views.execute(
            "UPDATE checkpoints SET status = 'parked', error = 'event 1: ValueError: no', position = ?, hash = ?"
            " WHERE view = ?",
            (before.position, before.hash, view),
        )
        views.execute("DELETE FROM history WHERE position = ?", (position,))
    return position


@pytest.mark.slow
def test_a_view_that_is_not_parked_there_skips_nothing(tmp_path: Path) -> None:
    record(tmp_path)
    not_parked = runfold(tmp_path, "skip", "history", "1")
    position = park(tmp_path, "history")

    elsewhere = runfold(tmp_path, "skip", "history", "1")

    assert (not_parked.returncode, elsewhere.returncode) == (1, 1)
    assert "view `history` is not parked" in not_parked.stderr
    assert f"view `history` is parked at event {position}, not 1" in elsewhere.stderr
    with closing(open_reader(tmp_path)) as log:
        assert read_page(log, stream=SYSTEM_STREAM).events == ()


@pytest.mark.slow
def test_a_skip_is_recorded_with_its_actor_and_reason_and_the_view_goes_on(tmp_path: Path) -> None:
    record(tmp_path)
    position = park(tmp_path, "history")

    done = runfold(tmp_path, "skip", "history", str(position), "--reason", "made by hand")

    assert done.returncode == 0, done.stderr
    with closing(open_reader(tmp_path)) as log:
        recorded = read_page(log, stream=SYSTEM_STREAM).events[-1]
    event = recorded.event()
    assert recorded.actor.startswith("user:")
    assert isinstance(event, ViewEventSkipped)
    assert (event.view, event.position, event.reason) == ("history", position, "made by hand")
    assert "parked" not in runfold(tmp_path, "doctor").stdout


class Delicate(RunsFold):
    """Takes every event but one text."""

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        if recorded.data is not None and b"poison" in recorded.data:
            raise ValueError("it cannot be taken")
        super().apply(connection, recorded, event)


DELICATE = (msgspec.structs.replace(RUNS, make_fold=Delicate),)


async def test_t53_a_recorded_skip_frees_a_parked_view_and_rebuilds_and_proofs_obey_it(tmp_path: Path) -> None:
    await write(tmp_path, runs=1)
    log = await SqliteLog.open(tmp_path)
    await log.append("r_bad", [new_event(Message(text="poison")), new_event(Message(text="fine"))], expected=0)
    parked = refreshed(tmp_path, DELICATE)

    skip = ViewEventSkipped(view="runs", position=4, reason="made by a broken reporter")
    await record_skip(log, skip, actor="user:ann", at_us=1)
    await record_skip(log, skip, actor="user:ann", at_us=1)
    freed = refreshed(tmp_path, DELICATE)
    live = rows_of(tmp_path)
    rebuild(tmp_path, views=DELICATE)
    await log.close()
    connection = open_reader(tmp_path)
    faults = list(Drift(connection, tmp_path, views=DELICATE).faults())
    connection.close()

    assert (parked.parked, parked.position, parked.stale) == (("runs",), 3, True)
    assert (freed.parked, freed.position, freed.stale) == ((), 6, False)
    assert [run_id for run_id, _ in live] == ["r_0", "r_bad"]
    assert rows_of(tmp_path) == live
    assert faults == []


async def test_a_skip_of_another_event_or_view_frees_nothing(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await log.append("r_bad", [new_event(Message(text="poison"))], expected=0)

    for skip in (ViewEventSkipped(view="runs", position=2), ViewEventSkipped(view="history", position=1)):
        await record_skip(log, skip, actor="user:ann", at_us=1)
    freshness = refreshed(tmp_path, DELICATE)
    await log.close()

    assert (freshness.parked, freshness.position) == (("runs",), 0)


def rows_of(data: Path) -> list[tuple[str, int]]:
    with closing(Views.open(data, views=DELICATE)) as views:
        views.refresh()
        return views.connection.execute("SELECT run_id, version FROM runs ORDER BY run_id").fetchall()

"""`runfold skip`: only what a view is parked at can be left out, and that is recorded with who said so."""

from contextlib import closing
from pathlib import Path

import pytest

from eventstore.reading import open_reader, read_page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM
from runfold.events import ViewEventSkipped
from tests.terminal import read, record, runfold

pytestmark = pytest.mark.slow


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

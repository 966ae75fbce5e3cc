"""Views folded anew: nothing but what was asked for changes, and an empty or moving log is no special case."""

import asyncio
import random
import sys
import uuid
from pathlib import Path

import pytest

from eventstore.sqlite import SqliteLog
from projections.catalogue import VIEWS
from projections.engine.rebuilding import rebuild
from projections.engine.views import Views
from runfold.envelope import NewEvent
from runfold.events import RunQueued
from tests.histories import new_event, write_histories
from tests.rebuilds import rows, write


async def test_t48_rebuilding_one_view_leaves_every_other_as_it_was(tmp_path: Path) -> None:
    await write(tmp_path, runs=5)
    before = rows(tmp_path)

    for view in VIEWS:
        rebuilt = rebuild(tmp_path, only=(view.name,))

        assert rows(tmp_path) == before
        assert rebuilt.folded == (view.name,)
        assert set(rebuilt.copied) == {other.name for other in VIEWS} - {view.name}


@pytest.mark.parametrize("runs", [0, 1, 200])
async def test_t49_a_log_of_no_one_or_many_events_is_rebuilt(tmp_path: Path, runs: int) -> None:
    await write(tmp_path, runs=runs)
    before = rows(tmp_path)

    rebuild(tmp_path)

    assert rows(tmp_path) == before
    assert len(before["runs"]) == runs


async def test_t49_events_that_no_view_knows_are_passed_over(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    strange = [NewEvent(id=str(uuid.uuid4()), type="a_later_type", data=b"{}", at_us=1, tenant="default", actor="s")]
    await log.append("$runfold", strange, expected=0)
    await log.close()

    rebuild(tmp_path)

    views = Views.open(tmp_path)
    freshness = views.refresh()
    views.close()
    assert (freshness.position, freshness.stale) == (1, False)


@pytest.mark.slow
async def test_t49_a_head_that_moves_while_views_are_rebuilt_is_caught_up_with(tmp_path: Path) -> None:
    await write(tmp_path, runs=100)
    log = await SqliteLog.open(tmp_path)
    rebuilding = asyncio.create_task(asyncio.to_thread(rebuild, tmp_path))
    number = 100
    while not rebuilding.done():
        await log.append(f"r_{number}", [new_event(RunQueued())], expected=0)
        number += 1
    await rebuilding
    await log.close()

    assert len(rows(tmp_path)["runs"]) == number


@pytest.mark.slow
@pytest.mark.parametrize("helper", [sys.executable, "/bin/false"])
async def test_two_processes_make_the_rows_that_one_makes_also_where_one_of_them_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: str
) -> None:
    log = await SqliteLog.open(tmp_path)
    await write_histories(log, random.Random(30), appends=80, redactions=True)
    await log.close()
    before = rows(tmp_path)
    (tmp_path / "views.2.db-part").write_bytes(b"left by a helper that was killed")

    monkeypatch.setattr(sys, "executable", helper)
    rebuilt = rebuild(tmp_path, workers=2)

    assert rebuilt.folded == tuple(view.name for view in VIEWS)
    assert rows(tmp_path) == before
    assert list(tmp_path.glob("views.*-part*")) == []

"""What a server does beside its work fails without it, and is tried again."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from cli import copying, node, refolding, snapshotting
from cli.beside import run_beside
from cli.copying import keep_copy
from cli.refolding import fold_anew_after_upgrade
from cli.settings import Settings, load_settings
from cli.snapshotting import keep_snapshots, snapshot_where_due
from eventstore.contract import Presence
from eventstore.ledger import Ledger
from eventstore.mirrored import Mirrored, note_mirrored
from eventstore.objects.shared_outputs import SHARED_FILE
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.views import Views
from projections.service import ViewService
from runfold.commands import OpenReported
from runfold.errors import Unavailable
from runfold.events import RunQueued
from runner.reactor import Reactor
from tests.tampering import damage_table
from tests.working import PATIENCE_SECONDS


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    """Of a folder that mirrors a log whose machines share a store."""
    data, url = tmp_path / "data", f"file://{tmp_path / 'store'}"
    log = await SqliteLog.open(data)
    begin = OpenReported(queued=RunQueued(driver="reported"))
    await Ledger(log).execute("r_" + "a" * 26, begin, actor="user:a", tenant="default")
    log_id = (await log.bounds()).log_id
    await log.close()
    views = Views.open(data)
    views.refresh()
    views.close()
    note_mirrored(data, Mirrored(address="nats://127.0.0.1:1/log", log_id=log_id, blobs=url))
    return load_settings({"data": str(data)}, environ={}, folder=tmp_path)


async def goes_on(work: Coroutine[Any, Any, None], is_done: Callable[[], object]) -> bool:
    """Whether it went on until this was done."""
    working = asyncio.create_task(work)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (is_done() or working.done()):
            await asyncio.wait([working], timeout=0.01)
    is_done_by_it = not working.done()
    working.cancel()
    await asyncio.wait([working])
    return is_done_by_it


async def test_a_second_copy_is_kept_once_the_disk_takes_the_note_of_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "STEP_SECONDS", 0.01)
    note, tries = settings.data / SHARED_FILE, list[object]()
    obstacle = note.with_name(f"{note.name}.new")
    obstacle.mkdir()
    share = copying.share_new

    def shared(data: Path) -> None:
        tries.append(data)
        if len(tries) == 2:
            obstacle.rmdir()
        share(data)

    monkeypatch.setattr(copying, "share_new", shared)

    assert await goes_on(keep_copy(settings), note.exists)


@pytest.mark.parametrize("damage", ["log", "views"])
async def test_no_snapshot_of_what_is_damaged_is_made_and_the_server_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    tries = list[object]()

    def tried(data: Path, url: str) -> object:
        tries.append(data)
        return snapshot_where_due(data, url, events_due=1)

    monkeypatch.setattr(snapshotting, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(snapshotting, "snapshot_where_due", tried)
    if damage == "log":
        damage_table(settings.data / "log.db", "head")
    else:
        damage_table(settings.data / "views.1.db", "runs")

    assert await goes_on(keep_snapshots(settings), lambda: len(tries) > 1)


def failing_once(monkeypatch: pytest.MonkeyPatch, views: ViewService, error: Exception) -> list[object]:
    """What is asked of the views from now on; the first question meets an error, as of a disk."""
    asked, query = list[object](), views.query

    async def ask(fn: Any, *args: Any) -> Any:
        asked.append(fn)
        if len(asked) == 1:
            raise error
        return await query(fn, *args)

    monkeypatch.setattr(views, "query", ask)
    return asked


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), OSError(5, "input/output error")])
@pytest.mark.parametrize("name", ["_sweep", "_keep_limits", "_lose_silent"])
async def test_deadlines_and_limits_that_cannot_be_looked_at_now_are_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, error: Exception
) -> None:
    for seconds in ("SWEEP_SECONDS", "LOOK_SECONDS", "ELSEWHERE_SECONDS"):
        monkeypatch.setattr(node, seconds, 0.01)
    settings = load_settings({"data": str(tmp_path)}, environ={}, folder=tmp_path)
    async with node.open_node(settings) as whole:
        looks = failing_once(monkeypatch, whole.views, error)
        reactor, silent = Reactor(whole.ledger), cast(Presence, None)  # There are no runs of other machines.
        works: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "_sweep": lambda: node._sweep(whole),
            "_keep_limits": lambda: node._keep_limits(reactor, whole.views),
            "_lose_silent": lambda: node._lose_silent(whole.ledger, silent, whole.views),
        }
        went_on = await goes_on(works[name](), lambda: len(looks) > 2)

    assert went_on


async def test_a_server_whose_python_was_replaced_goes_on_without_what_it_would_run_beside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert await run_beside(tmp_path, "verify")


async def test_views_that_cannot_be_looked_at_after_an_upgrade_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refolding, "AGAIN_SECONDS", 0.01)
    views = await ViewService.open(tmp_path)
    try:
        looks = failing_once(monkeypatch, views, Unavailable("the views cannot be read now"))
        await fold_anew_after_upgrade(views, tmp_path)
    finally:
        await views.close()

    assert len(looks) == 2

"""A server whose views have much to fold answers at once, and right, while they are folded behind the answers."""

import asyncio
import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.engine.generations import FOLD_LOCK_FILE, locked
from projections.engine.views import BEHIND_MAX, Views
from projections.run_list import RunFilter, list_runs
from projections.service import ViewService
from runfold.commands import Complete, OpenReported
from runfold.events import RunQueued
from tests.far_behind import NEWER, OLDER, fill, say_much
from tests.ledgers import act
from tests.served import Served, serving
from tests.terminal import first_line, runfold, started
from tests.working import working

ALL = RunFilter(tenant=None)
WORKFLOW = '[workflow.quick]\ncommand = ["true"]\n'


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A folder without views, whose log they would be far behind."""
    log = await SqliteLog.open(tmp_path / "data")
    try:
        await fill(log)
    finally:
        await log.close()
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("left", [None, b"not a database any more" * 1_000], ids=["absent", "damaged"])
async def test_views_that_are_far_behind_are_folded_behind_the_answers(data: Path, left: bytes | None) -> None:
    if left is not None:
        (data / "views.1.db").write_bytes(left)
    views = await ViewService.open(data)
    try:
        at_once, freshness = await views.query(list_runs, ALL)
        whole, then = await views.query_whole(list_runs, ALL)
    finally:
        await views.close()

    assert (at_once.total, freshness.position, freshness.stale) == (0, 0, True)
    assert freshness.behind > BEHIND_MAX
    assert (whole.total, then.stale, then.behind) == (2, False, 0)


async def asked(server: Served, path: str) -> dict[str, Any]:
    answer = await server.ask("GET", path)
    return {"http": answer.status, **(await answer.json())}


@pytest.mark.slow
async def test_a_server_whose_views_are_far_behind_says_so_and_answers_of_each_run_as_it_is(data: Path) -> None:
    Views.open(data).close()
    with ExitStack() as held:
        held.enter_context(locked(data, FOLD_LOCK_FILE, 0))
        async with serving(data) as server:
            ready = await asked(server, "/readyz")
            listed = await asked(server, "/api/runs")
            cancelled = await server.control(NEWER, "cancel")
            one = await asked(server, f"/api/runs/{NEWER}")
            steps = await asked(server, f"/api/runs/{NEWER}/steps")
            several = await server.ask(
                "POST", "/api/runs/bulk", json={"action": "cancel", "dry_run": True, "filter": {"status": ["running"]}}
            )
            head = (await server.log.bounds()).last
            held.close()
            while (after := await asked(server, "/readyz"))["folding"] is not None:
                await asyncio.sleep(0)
            whole = await asked(server, "/api/runs")

    assert (ready["http"], ready["status"], ready["folding"]["done"]) == (200, "degraded", 0)
    assert ready["folding"]["total"] > BEHIND_MAX
    assert (listed["total"], listed["stale"], listed["views_position"]) == (0, True, 0)
    assert cancelled.status == 202
    assert (one["status"], one["position"], "stale" in one) == ("cancelled", head, False)
    assert (steps["http"], several.status) == (503, 503)
    assert (after["status"], whole["total"], "stale" in whole) == ("ready", 2, False)


@pytest.mark.slow
async def test_while_views_fold_a_run_that_was_trimmed_is_its_summary_and_what_is_not_there_yet_is_stale(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    log = await SqliteLog.open(data)
    try:
        ledger = Ledger(log)
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=OLDER)
        await act(ledger, Complete(), run_id=OLDER)
        await log.archive([OLDER], tmp_path / "archive.zst")
        await log.trim([OLDER], actor="user:a")
        with closing(Views.open(data)) as views:
            views.refresh()
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=NEWER)
        await say_much(log, NEWER)
        head = (await log.bounds()).last
    finally:
        await log.close()

    with locked(data, FOLD_LOCK_FILE, 0):
        async with serving(data) as server:
            trimmed = await asked(server, f"/api/runs/{OLDER}")
            newer = await asked(server, f"/api/runs/{NEWER}?min_position={head + 1}")
        listed, reported = runfold(data, "status", OLDER), runfold(data, "report", OLDER)

    assert (trimmed["http"], trimmed["status"]) == (200, "completed")
    assert (newer["http"], newer["stale"], newer["views_position"]) == (200, True, head)
    assert "completed" in listed.stdout, listed.stderr
    assert reported.returncode == 0, reported.stderr


@pytest.mark.slow
async def test_a_worker_whose_views_are_far_behind_takes_what_is_queued_now_and_then_what_waited(
    tmp_path: Path,
) -> None:
    async with working(tmp_path, WORKFLOW, workers=0) as before:
        waited = await before.queue("quick")
        await fill(before.log)

    with ExitStack() as held:
        held.enter_context(locked(tmp_path / "data", FOLD_LOCK_FILE, 0))
        async with working(tmp_path, WORKFLOW) as now:
            taken = await now.wait_rest(await now.queue("quick"))
            meanwhile = await now.types(waited)
            held.close()
            after = await now.wait_rest(waited)

    assert (taken.status, meanwhile, after.status) == ("completed", ["run_queued"], "completed")


@pytest.mark.slow
def test_beside_a_server_that_folds_a_terminal_names_runs_as_they_are_and_no_newest_one(data: Path) -> None:
    Views.open(data).close()
    with locked(data, FOLD_LOCK_FILE, 0), started(data, "up", "--port", "0", "--no-browser") as server:
        url = first_line(server).partition("/login")[0]
        listed = runfold(data, "ps", "--quiet")
        newest = runfold(data, "cancel", "@last")
        cancelled = runfold(data, "cancel", NEWER[:9])
        shown = json.loads(runfold(data, "status", NEWER, "--json").stdout)
        watched = runfold(data, "watch", NEWER, "--json", "--compact")
        token = (data / "token").read_text().strip()
        away = runfold(data, "cancel", OLDER, RUNFOLD_URL=url, RUNFOLD_TOKEN=token)
        away_newest = runfold(data, "cancel", "@last", RUNFOLD_URL=url, RUNFOLD_TOKEN=token)

    assert (listed.stdout, "still to be folded" in listed.stderr) == ("", True)
    assert (newest.returncode, "name the run by its id" in newest.stderr) == (1, True)
    assert (cancelled.returncode, shown["status"], watched.returncode) == (0, "cancelled", 143)
    assert watched.stdout.splitlines()[-1].count("run_cancelled") == 1
    assert (away.returncode, away_newest.returncode) == (0, 1)

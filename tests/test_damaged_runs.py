"""A run that was altered is neither driven nor ended, and keeps no other from it."""

import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

import projections.queued
import runner.worker
from eventstore.leases import Lease, Leases
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.state_file import mend_states
from projections.run_list import RunFilter, list_runs
from runfold.commands import Cancel, Command, OpenReported, Resume, StartHere, Stop
from runfold.events import RunQueued
from runfold.state import Run
from runner import machine
from runner.by_hand import rest_unattended
from runner.reactor import Reactor
from runner.recovering.elsewhere import lose_silent
from runner.recovering.recover import recover
from runner.recovering.reported import Reporters
from tests.tampering import edit, leave
from tests.terminal import runfold
from tests.working import shell, working

ALTERED, OTHER = "r_" + "a" * 26, "r_" + "b" * 26
LATER_SECONDS = 3_600.0
GONE = {"host": machine.host(), "boot_id": "", "pid": 1, "pid_started_at": "1"}
STARTED = {"worker": "w", "host": machine.host()}


class Silence:
    """Nobody is heard."""

    async def beat(self, worker: str) -> None: ...

    async def is_alive(self, worker: str) -> bool:
        return False


def altered(before: Path, run_id: str, folder: Path) -> Path:
    """A copy in which somebody has altered a run: where it came from, its proof is known."""
    data = shutil.copytree(before, folder / "altered")
    connection = edit(data)
    connection.execute("UPDATE events SET actor = 'user:mallory' WHERE run_id = ?", (run_id,))
    leave(connection)
    return data


async def begun(folder: Path, *commands: Command) -> tuple[Path, list[Run]]:
    """Two runs alike, of which the first was altered then."""
    log = await SqliteLog.open(folder / "data")
    ledger = Ledger(log)
    for run_id in (ALTERED, OTHER):
        for command in commands:
            await ledger.execute(run_id, command, actor="user:t", tenant="default")
    runs = [await ledger.state(run_id) for run_id in (ALTERED, OTHER)]
    await log.close()
    return altered(folder / "data", ALTERED, folder), runs


@pytest.mark.slow
async def test_a_queued_run_that_was_altered_is_not_taken_and_the_others_are(tmp_path: Path) -> None:
    async with working(tmp_path, shell("true"), workers=0) as nobody:
        first, other = await nobody.queue("w"), await nobody.queue("w")
        await nobody.views.query(list_runs, RunFilter(tenant=None))
    data = altered(tmp_path / "data", first, tmp_path)
    shutil.rmtree(tmp_path / "data")
    data.rename(tmp_path / "data")

    async with working(tmp_path, shell("true")) as worker:
        run = await worker.wait_rest(other)
        later = await worker.wait_rest(await worker.queue("w"))

    assert (run.status, later.status) == ("completed", "completed")


@pytest.mark.slow
async def test_runs_that_were_queued_before_and_behind_an_altered_one_are_taken_at_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where there are many more of them.
    monkeypatch.setattr(runner.worker, "QUEUED_PAGE", 1)
    monkeypatch.setattr(projections.queued, "STRETCH_POSITIONS", 1)
    async with working(tmp_path, shell("true"), workers=0) as nobody:
        before = [await nobody.queue("w") for _ in range(2)]
        await nobody.views.query(list_runs, RunFilter(tenant=None))
        first = await nobody.queue("w")
        behind = [await nobody.queue("w") for _ in range(2)]
    data = altered(tmp_path / "data", first, tmp_path)
    shutil.rmtree(tmp_path / "data")
    data.rename(tmp_path / "data")

    async with working(tmp_path, shell("true")) as worker:
        runs = [await worker.wait_rest(run_id) for run_id in (*before, *behind)]

    assert [run.status for run in runs] == ["completed"] * 4


@pytest.mark.slow
async def test_a_run_that_is_queued_behind_what_nobody_appended_is_taken(tmp_path: Path) -> None:
    async with working(tmp_path, shell("true")) as worker:
        await worker.wait_rest(await worker.queue("w"))
        forge(worker.data)
        later = [await worker.wait_rest(await worker.queue("w")) for _ in range(2)]

    assert [run.status for run in later] == ["completed"] * 2


@pytest.mark.slow
async def test_a_worker_hears_what_is_asked_of_its_runs_also_where_the_log_goes_on_with_what_nobody_appended(
    tmp_path: Path,
) -> None:
    async with working(tmp_path, shell("sleep 1000")) as worker:
        run_id = await worker.queue("w")
        await worker.wait_type(run_id, "turn_started")
        forge(worker.data)
        await worker.execute(run_id, Cancel())
        run = await worker.wait_rest(run_id)

    assert run.status == "cancelled"


def forge(data: Path) -> None:
    """Somebody adds an event by hand."""
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        somebody.execute(
            "INSERT INTO events SELECT (SELECT position + 1 FROM head), 'r_forged', 1, id, type, schema, at_us,"
            " recorded_at_us, tenant, actor, cause, command, sent, correlation, salt, data, digest, hash"
            " FROM events ORDER BY position LIMIT 1"
        )
        somebody.execute("UPDATE head SET position = position + 1")
        somebody.execute("COMMIT")


def lose(data: Path) -> None:
    """The driver of both runs is gone."""
    leases = Leases.open(data)
    for run_id in (ALTERED, OTHER):
        leases.take(Lease(run_id=run_id, tenant="default", claim=1, owner="w", **GONE))
    leases.close()


async def test_a_lost_run_that_was_altered_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    data, _ = await begun(tmp_path, StartHere(queued=RunQueued(driver="here"), **STARTED))
    lose(data)
    log = await SqliteLog.open(data)
    try:
        found = await recover(Ledger(log), log, data=data)
    finally:
        await log.close()

    assert found == [OTHER]


@pytest.mark.slow
async def test_beside_a_lost_run_that_was_altered_commands_write_as_ever(tmp_path: Path) -> None:
    data, _ = await begun(tmp_path, StartHere(queued=RunQueued(driver="here"), **STARTED))
    lose(data)

    done = runfold(data, "note", OTHER, "seen")

    assert done.returncode == 0, done.stderr


async def test_state_files_of_other_runs_are_written_beside_a_run_that_was_altered(tmp_path: Path) -> None:
    await (await SqliteLog.open(tmp_path / "data")).close()
    mend_states(tmp_path / "data")
    data, _ = await begun(tmp_path, OpenReported(queued=RunQueued(driver="reported")))

    assert mend_states(data) == [OTHER]


async def test_a_silent_reporters_run_that_was_altered_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    data, runs = await begun(tmp_path, OpenReported(queued=RunQueued(driver="reported", lease_seconds=30)))
    now = [0.0]
    log = await SqliteLog.open(data)
    try:
        reporters = Reporters(Ledger(log), now=lambda: now[0])
        heard = await reporters.end_overdue(runs)
        now[0] = LATER_SECONDS
        found = await reporters.end_overdue(runs)
    finally:
        await log.close()

    assert (heard, found) == ([], [OTHER])


async def test_a_limit_is_kept_beside_a_run_that_was_altered(tmp_path: Path) -> None:
    order = RunQueued(driver="reported", limits={"time": 60})
    data, runs = await begun(tmp_path, OpenReported(queued=order))
    log = await SqliteLog.open(data)
    try:
        later_us = int((time.time() + LATER_SECONDS) * 1_000_000)
        changed = await Reactor(Ledger(log, now_us=lambda: later_us), now_us=lambda: later_us).look(runs)
    finally:
        await log.close()

    assert [run.run_id for run in changed] == [OTHER]


async def test_the_runs_of_a_silent_machine_are_taken_beside_one_that_was_altered(tmp_path: Path) -> None:
    data, runs = await begun(tmp_path, StartHere(queued=RunQueued(driver="here"), **STARTED))
    log = await SqliteLog.open(data)
    try:
        found = await lose_silent(Ledger(log), Silence(), runs)
    finally:
        await log.close()

    assert found == [OTHER]


async def test_a_run_that_nobody_waits_for_is_paused_beside_one_that_was_altered(tmp_path: Path) -> None:
    order = RunQueued(driver="here", typed_by=machine.account())
    begin = StartHere(queued=order, **STARTED)
    data, runs = await begun(tmp_path, begin, Stop(claim=1), Resume(driver="here"))
    log = await SqliteLog.open(data)
    try:
        found = await rest_unattended(Ledger(log), log, runs, data=data)
    finally:
        await log.close()

    assert found == [OTHER]

"""A run whose driver is gone is ended by the next one who looks, and nobody else's is touched."""

import asyncio
import os
import threading
import uuid
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from eventstore import leases as leasing
from eventstore.boot import boot_id
from eventstore.leases import LEASE_SECONDS, Lease, Leases, monotonic_us
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.commands import StartHere
from runfold.errors import Unavailable
from runfold.events import RunQueued
from runner import machine
from runner.recovering import recover as recovering
from runner.recovering.lost import lost_leases
from runner.recovering.recover import recover
from tests.working import PATIENCE_SECONDS

RUN = "r_" + "a" * 26
MINE = Lease(
    run_id=RUN,
    tenant="default",
    claim=1,
    owner="w",
    host=machine.host(),
    boot_id=boot_id(),
    pid=os.getpid(),
    pid_started_at=machine.process_started_at(os.getpid()),
)


async def recovered(data: Path, lease: Lease, *, later_seconds: float = 0) -> tuple[list[str], str]:
    leases = Leases.open(data)
    leases.take(lease)
    leases.close()
    log = await SqliteLog.open(data)
    try:
        ledger = Ledger(log)
        start = StartHere(queued=RunQueued(driver="here"), worker="w", host=lease.host)
        await ledger.execute(RUN, start, command_id=str(uuid.uuid4()), actor="user:t", tenant="default")
        found = await recover(ledger, log, data=data, now=lambda: monotonic_us() + int(later_seconds * 1_000_000))
        return found, (await ledger.state(RUN)).reason_code
    finally:
        await log.close()


async def test_a_run_whose_process_is_gone_fails_as_worker_lost(tmp_path: Path) -> None:
    gone = msgspec.structs.replace(MINE, pid_started_at="1")

    assert await recovered(tmp_path, gone) == ([RUN], "WORKER_LOST")


async def test_a_run_whose_lease_ran_out_fails_as_worker_lost(tmp_path: Path) -> None:
    assert await recovered(tmp_path, MINE, later_seconds=LEASE_SECONDS + 1) == ([RUN], "WORKER_LOST")


async def test_a_run_whose_worker_lives_is_left_alone(tmp_path: Path) -> None:
    found, reason = await recovered(tmp_path, MINE)

    assert (found, reason == "WORKER_LOST") == ([], False)


async def test_a_run_of_another_host_is_left_alone(tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(MINE, host="elsewhere", pid_started_at="1")

    assert (await recovered(tmp_path, elsewhere))[0] == []


async def test_leases_that_somebody_holds_are_unavailable_and_their_runs_are_ended_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "BUSY_SECONDS", 0.001)
    log = await SqliteLog.open(tmp_path)
    ledger = Ledger(log)
    start = StartHere(queued=RunQueued(driver="here"), worker="w", host=MINE.host)
    await ledger.execute(RUN, start, actor="user:t", tenant="default")
    leases = Leases.open(tmp_path)
    leases.take(msgspec.structs.replace(MINE, pid_started_at="1"))
    leases.close()
    try:
        with closing(sqlite3.connect(tmp_path / "leases.db", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                await recover(ledger, log, data=tmp_path)
            somebody.execute("ROLLBACK")
        await recover(ledger, log, data=tmp_path)
        run = await ledger.state(RUN)
    finally:
        await log.close()

    assert run.reason_code == "WORKER_LOST"


async def test_who_is_cancelled_while_he_looks_closes_the_leases_when_nobody_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there, goes_on, found = threading.Event(), threading.Event(), list[list[Lease]]()

    def look(leases: Leases, now_us: int) -> list[Lease]:
        is_there.set()
        goes_on.wait(PATIENCE_SECONDS)
        found.append(lost_leases(leases, now_us))
        return found[0]

    Leases.open(tmp_path).close()
    monkeypatch.setattr(recovering, "lost_leases", look)
    log = await SqliteLog.open(tmp_path)
    looking = asyncio.create_task(recover(Ledger(log), log, data=tmp_path))
    await asyncio.to_thread(is_there.wait, PATIENCE_SECONDS)
    looking.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await looking
    await log.close()

    assert found == [[]]

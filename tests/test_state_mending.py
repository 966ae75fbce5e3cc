"""State files that killed processes left behind are written a few at a time, beside the work of whoever writes them."""

import asyncio
import json
import os
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from eventstore.file_lock import FileLock
from eventstore.ledger import Ledger
from eventstore.log_file import open_reader
from eventstore.mirrored import Mirrored, note_mirrored
from eventstore.sqlite import SqliteLog
from eventstore.state_file import CHANGES_MAX, States, mend_some, mend_states, read_looked, read_state
from eventstore.telling import told_behind
from runfold.commands import Complete, OpenReported
from runfold.events import RunQueued
from tests.ledgers import RUN, act
from tests.terminal import first_line, runfold, started

OPENED = OpenReported(queued=RunQueued(driver="reported"))
WITHIN_SECONDS = 60.0
OTHER = "r_b"


async def leave(data: Path, *run_ids: str, first: bool = True) -> None:
    """Runs of which killed processes have written no file, in a folder where files are promised."""
    log = await SqliteLog.open(data)
    try:
        if first:
            mend_states(data)
        ledger = Ledger(log)
        for run_id in run_ids:
            await act(ledger, OPENED, run_id=run_id)
    finally:
        await log.close()


@contextmanager
def in_use(data: Path) -> Generator[None]:
    """Somebody else sees to the files of a folder."""
    (data / "runs").mkdir(exist_ok=True)
    descriptor = os.open(data / "runs", os.O_RDONLY)
    try:
        with FileLock(descriptor, data / "runs"):
            yield
    finally:
        os.close(descriptor)


@pytest.mark.slow
async def test_many_files_that_lag_are_written_a_few_at_a_time_and_gone_on_with(tmp_path: Path) -> None:
    run_ids = [f"r_{number:03}" for number in range(CHANGES_MAX)]
    await leave(tmp_path, *run_ids)

    first = mend_some(tmp_path)
    looked = read_looked(tmp_path)
    rest = mend_states(tmp_path)

    assert first is not None
    assert (first.is_last, first.run_ids) == (False, tuple(run_ids[: CHANGES_MAX // 2]))
    assert looked is not None
    assert (looked.since, looked.upto) == (0, first.reached)
    assert rest == run_ids[CHANGES_MAX // 2 :]
    with closing(open_reader(tmp_path)) as connection:
        assert list(States(connection, tmp_path).faults()) == []


async def test_a_server_s_first_command_waits_for_no_file_that_others_left(tmp_path: Path) -> None:
    await leave(tmp_path, OTHER)

    log = await SqliteLog.open(tmp_path)
    try:
        with in_use(tmp_path):
            async with asyncio.timeout(WITHIN_SECONDS), told_behind(tmp_path) as tell:
                await act(Ledger(log, data=tmp_path, tell=tell), OPENED)
    finally:
        await log.close()

    assert [read_state(tmp_path, run_id) is None for run_id in (RUN, OTHER)] == [False, True]


@pytest.mark.slow
async def test_a_server_listens_before_the_files_that_others_left_are_written(tmp_path: Path) -> None:
    run_id = "r_" + "a" * 26
    await leave(tmp_path, run_id)

    with started(tmp_path, "up", "--port", "0", "--no-browser") as server:
        with in_use(tmp_path):
            link = await asyncio.to_thread(first_line, server)
            listed = json.loads(runfold(tmp_path, "ps", "--json").stdout)
            lags = read_state(tmp_path, run_id)
        ends = time.monotonic() + WITHIN_SECONDS
        while (file := read_state(tmp_path, run_id)) is None and time.monotonic() < ends:
            pass

    assert link.startswith("http://")
    assert ([item["id"] for item in listed["items"]], lags) == ([run_id], None)
    assert file is not None
    assert file.run_status == "running"


async def test_of_a_log_that_machines_share_a_folder_has_the_files_of_what_was_written_from_it(tmp_path: Path) -> None:
    await leave(tmp_path)
    log = await SqliteLog.open(tmp_path)
    try:
        await act(Ledger(log, data=tmp_path), OPENED)
        elsewhere = Ledger(log)
        await act(elsewhere, OPENED, run_id=OTHER)
        for run_id in (RUN, OTHER):
            await act(elsewhere, Complete(), run_id=run_id)
    finally:
        await log.close()
    note_mirrored(tmp_path, Mirrored(address="nats://a", log_id="l"))

    mended = mend_states(tmp_path), mend_states(tmp_path, every=True)

    assert mended == ([RUN], [])
    file = read_state(tmp_path, RUN)
    assert file is not None
    assert (file.run_status, (tmp_path / "runs" / OTHER).exists()) == ("completed", False)

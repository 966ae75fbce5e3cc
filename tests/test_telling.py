"""A server answers when the log has it; the state files follow, and one that cannot be written holds up no other."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from eventstore.file_lock import FileLock
from eventstore.ledger import Ledger
from eventstore.log_file import open_reader
from eventstore.sqlite import SqliteLog
from eventstore.state_file import States, read_state
from eventstore.telling import told_behind
from runfold.commands import OpenReported, Pause, Resume
from runfold.events import RunQueued
from tests.ledgers import RUN, act

OTHER = "r_b"


@asynccontextmanager
async def behind(data: Path) -> AsyncGenerator[Ledger]:
    log = await SqliteLog.open(data)
    try:
        async with told_behind(data) as tell:
            yield Ledger(log, data=data, tell=tell)
    finally:
        await log.close()


async def test_who_appends_is_answered_while_the_file_of_his_run_is_held(tmp_path: Path) -> None:
    async with behind(tmp_path) as ledger:
        (folder := tmp_path / "runs" / RUN).mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY)
        with FileLock(descriptor, folder):
            await act(ledger, OpenReported(queued=RunQueued(driver="reported")))
            for command in (Pause(), Resume(), Pause()):
                await act(ledger, command)
            held = read_state(tmp_path, RUN)
        os.close(descriptor)

    file = read_state(tmp_path, RUN)
    assert (held, file and file.run_status, file and len(file.history)) == (None, "paused", 7)
    with closing(open_reader(tmp_path)) as connection:
        assert list(States(connection, tmp_path).faults()) == []


async def test_a_file_that_cannot_be_written_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / RUN).touch()

    async with behind(tmp_path) as ledger:
        for run_id in (RUN, OTHER):
            await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=run_id)

    assert [read_state(tmp_path, run_id) is None for run_id in (RUN, OTHER)] == [True, False]

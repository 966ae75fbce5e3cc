"""The projector killed at every statement, in other surroundings, and beside a live reader: always the same rows."""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.file_systems import HOSTED, NETWORK, file_system_of
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import is_affected
from projections.runs import get_run
from projections.service import ViewService
from runfold.events import Message, RunQueued, RunStarted
from tests.histories import new_event, write_some
from tests.rebuilds import rows

ROOT = Path(__file__).parent.parent

# Forks once for each statement that the fold runs on the views, and kills that child there.
KILLED_AT_EACH = """
import os, shutil, signal, sys
from pathlib import Path
from projections.engine.views import Views
folder = Path(sys.argv[1])
at = 0
while True:
    at += 1
    data = folder / str(at)
    shutil.copytree(folder / "start", data)
    child = os.fork()
    if child == 0:
        left = at
        def count(statement):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        views = Views.open(data, page_events=7)
        views.connection.set_trace_callback(count)
        views.refresh()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
print(at)
"""

DUMP = """
import sys
from pathlib import Path
from projections.engine.views import Views
views = Views.open(Path(sys.argv[1]))
views.refresh()
for (name,) in views.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
    for row in views.connection.execute(f"SELECT * FROM {name}"):
        print(name, ascii(row))
views.close()
"""


async def filled(data: Path, *, batches: int) -> None:
    data.mkdir()
    chance = random.Random(46)
    log = await SqliteLog.open(data)
    for _ in range(batches):
        await write_some(log, chance)
    await log.close()


@pytest.mark.slow
async def test_t46_a_projector_killed_at_any_statement_counts_nothing_twice(tmp_path: Path) -> None:
    await filled(tmp_path / "start", batches=5)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "start", whole)
    expected = rows(whole)

    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH, str(tmp_path)], cwd=ROOT, text=True, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    statements = int(done.stdout)
    assert statements > 20
    for at in range(1, statements + 1):
        assert rows(tmp_path / str(at)) == expected, f"killed at statement {at} of {statements}"


@pytest.mark.slow
async def test_t62_another_hash_seed_zone_and_locale_fold_the_same_bytes(tmp_path: Path) -> None:
    await filled(tmp_path / "start", batches=20)
    dumps: list[str] = []

    for number, surroundings in enumerate(
        (
            {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"},
            {"PYTHONHASHSEED": "4242", "TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8"},
            {"PYTHONHASHSEED": "77", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"},
        )
    ):
        data = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", data)
        done = subprocess.run(
            [sys.executable, "-c", DUMP, str(data)],
            cwd=ROOT,
            env={**os.environ, **surroundings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        dumps.append(done.stdout)

    assert "history_runs" in dumps[0]
    assert dumps[1] == dumps[0]
    assert dumps[2] == dumps[0]


@pytest.mark.slow
async def test_t42_between_a_snapshot_and_the_first_live_event_nothing_is_lost(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    last = (await log.append("r_a", [new_event(RunQueued()), new_event(RunStarted(pid=1))], expected=0)).last
    service = await ViewService.open(tmp_path)
    ended = asyncio.Event()

    async def append() -> None:
        expected = last
        while not ended.is_set():
            expected = (await log.append("r_a", [new_event(Message(text="m"))], expected=expected)).last

    appending = asyncio.create_task(append())
    try:
        for _ in range(40):
            found, _ = await service.query(get_run, "r_a", tenant=None)
            assert found is not None
            async with contextlib.aclosing(log.tail(after=found.position, stream="r_a")) as tail:
                page = await anext(tail)
                while not page.events:
                    page = await anext(tail)
            assert page.events[0].version == found.version + 1
    finally:
        ended.set()
        await appending
        await service.close()
        await log.close()


@pytest.mark.parametrize("kind", sorted(NETWORK | HOSTED))
def test_t65_a_network_file_system_is_told_by_its_mount(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "a share" / "runs"
    mounts = tmp_path / "mounts"
    written = str(tmp_path / "a share").replace(" ", "\\040")
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nhost:/a {written} {kind} rw 0 0\nhost:/b {written}2 ext4 rw 0 0\n")

    assert file_system_of(place, mounts=mounts) == kind
    assert file_system_of(tmp_path / "elsewhere", mounts=mounts) == "ext4"
    assert file_system_of(place, mounts=tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("version", "affected"), [((3, 6, 9), False), ((3, 7, 0), True), ((3, 51, 2), True), ((3, 51, 3), False)]
)
def test_doctor_knows_the_wal_reset_bug_by_version(version: tuple[int, ...], affected: bool) -> None:
    assert is_affected(version) == affected

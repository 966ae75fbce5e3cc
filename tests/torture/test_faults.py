"""A process that is killed, or a disk that fails, at each single change of the files: nothing acknowledged is lost."""

import errno
import json
import random
from pathlib import Path
from typing import Any

import pytest

from eventstore.writing import Writer
from projections.engine.views import Views
from tests.effort import IS_LONG, SEED
from tests.torture.shim import faulty
from tests.torture.soundness import wrongs
from tests.torture.states import cuts, read_changes

pytestmark = pytest.mark.slow

EVERY = 1 if IS_LONG else 5
STATES = 1_500 if IS_LONG else 40
PATIENCE_SECONDS = 3600 if IS_LONG else 900  # A rebuild has thousands of calls; others may be at work beside it.
LOOKS = 12  # Calls that fail, of whoever looks at the views now and then.
WORKS = ["append", "blob", "project", "rebuild", "archive"]


def points(work: str, folder: Path, *, error: int, times: int, reads: bool = False) -> Any:
    # Archiving changes the disk three times as often as anything else.
    every = EVERY if IS_LONG or work != "archive" else 3 * EVERY
    done = faulty("points", work, folder, error, times, every, below=folder, reads=reads)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{work}: {found}")
    return found


@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("work", WORKS)
def test_a_kill_at_any_change_of_the_disk_loses_nothing_that_was_acknowledged(tmp_path: Path, work: str) -> None:
    found = points(work, tmp_path, error=0, times=1)

    assert found["wrong"] == []
    assert found["killed"] >= 3
    assert found["ended"] == 1  # The last point lies beyond the work's end.


@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("work", WORKS)
def test_an_io_error_at_any_call_loses_nothing_and_the_next_process_goes_on(tmp_path: Path, work: str) -> None:
    found = points(work, tmp_path, error=errno.EIO, times=1, reads=True)

    assert found["wrong"] == []
    assert found["refused"] >= 3


@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("work", WORKS)
def test_a_disk_that_is_full_from_any_call_on_loses_nothing_and_the_next_process_goes_on(
    tmp_path: Path, work: str
) -> None:
    found = points(work, tmp_path, error=errno.ENOSPC, times=0)

    assert found["wrong"] == []
    assert found["refused"] >= 3


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS])
def test_a_server_outlives_a_disk_that_takes_nothing_of_its_views_for_a_while(tmp_path: Path, error: int) -> None:
    Views.open(tmp_path).close()

    done = faulty("troubled", tmp_path, error, LOOKS, below=tmp_path / "views.1.db")

    assert json.loads(done.stdout.splitlines()[-1]) == {"said": "stale", "then": "current", "broke": None}


def test_a_server_outlives_views_that_cannot_be_read_and_folds_them_anew(tmp_path: Path) -> None:
    Views.open(tmp_path).close()

    done = faulty("troubled", tmp_path, errno.EIO, 0, below=tmp_path / "views.1.db", reads=True)

    assert json.loads(done.stdout.splitlines()[-1]) == {"said": "current", "then": "current", "broke": None}


def test_who_reads_a_log_that_a_disk_does_not_give_back_is_told_to_try_again(tmp_path: Path) -> None:
    Writer(tmp_path, lambda: 1).close()

    # What a disk behind a network says; SQLite takes EIO for a damaged file.
    done = faulty("unread", tmp_path, errno.ETIMEDOUT, below=tmp_path / "log.db", reads=True)

    found = json.loads(done.stdout.splitlines()[-1])
    assert [(status, code) for status, code, _ in found["said"]] == [(503, "unavailable")] * 3
    assert all(hint.startswith("try again") for _, _, hint in found["said"])
    assert [status for status, _, _ in found["then"]] == [200] * 3


def recorded(folder: Path, *mode: str) -> tuple[Path, list[Any]]:
    data, records = folder / "data", folder / "records"
    data.mkdir()
    faulty("writer", data, 40, *mode, below=data, records=records)
    return data, read_changes(records)


def damaged(data: Path, changes: list[Any], folder: Path, count: int) -> tuple[int, int, list[str]]:
    """How many disks were left, how many lack something acknowledged, and what is wrong beside that."""
    chance = random.Random(SEED)
    looked_at = losing = 0
    unsound: list[str] = []
    for number, disk in cuts(changes, count, chance):
        left = folder / f"cut-{number}"
        left.mkdir()
        mode = disk.cut(data, left, chance)
        found = wrongs(left, disk.acknowledged, views=looked_at % 8 == 0)
        looked_at += 1
        losing += any(wrong.startswith(("lost", "all is lost")) for wrong in found)
        unsound += [f"{number} {mode}: {wrong}" for wrong in found if not wrong.startswith(("lost", "all is lost"))]
    print(f"seed {SEED}: {looked_at} disks after {len(changes)} changes, {losing} lack something acknowledged")
    return looked_at, losing, unsound


@pytest.mark.timeout(1800)
def test_t26_no_disk_that_a_power_cut_can_leave_lacks_what_was_acknowledged(tmp_path: Path) -> None:
    data, changes = recorded(tmp_path)

    looked_at, losing, unsound = damaged(data, changes, tmp_path, STATES)

    assert looked_at == min(STATES, len(changes) - 1)
    assert (losing, unsound) == (0, [])


@pytest.mark.timeout(900)
def test_t26_the_same_disks_show_the_loss_where_the_log_does_not_wait_for_them(tmp_path: Path) -> None:
    data, changes = recorded(tmp_path, "normal")

    _, losing, _ = damaged(data, changes, tmp_path, 40)

    assert losing > 0

"""What a data folder holds is for its owner: others who have an account on the machine read none of it."""

import os
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.terminal import record, runfold

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _usual_umask() -> Generator[None, None, None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.rglob("*.db*")}


def test_a_data_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    data, copy, back = tmp_path / "data", tmp_path / "copy", tmp_path / "back"

    record(data)
    runfold(data, "backup", str(copy))
    runfold(back, "restore", str(copy))

    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (data, copy, back)] == [0o700] * 3


def test_in_a_folder_that_others_may_enter_they_read_neither_log_nor_views(tmp_path: Path) -> None:
    data, copy, back = tmp_path / "data", tmp_path / "copy", tmp_path / "back"
    for folder in (data, copy, back):
        folder.mkdir(mode=0o755)

    record(data)
    for command in (["ps"], ["audit"], ["rebuild"]):
        assert runfold(data, *command).returncode == 0
    assert runfold(data, "backup", str(copy)).returncode == 0
    assert runfold(back, "restore", str(copy)).returncode == 0
    assert runfold(back, "ps").returncode == 0

    assert [sorted(path.name for path in folder.glob("*.db")) for folder in (data, copy, back)] == [
        ["leases.db", "log.db", "views.2.db"], ["log.db"], ["log.db", "views.1.db"],
    ]  # fmt: skip
    assert [modes(folder) for folder in (data, copy, back)] == [{0}, {0}, {0}]

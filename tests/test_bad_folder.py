"""A data folder on a disk that is read-only or full, or with a broken pointer: told plainly, and left as it was."""

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.terminal import read, record, runfold

pytestmark = pytest.mark.slow

SIZE_BYTES = 2 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Callable[..., Path], None, None]:
    """A small disk of its own, made or made anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk of its own needs root and Linux")

    def mount(*options: str) -> Path:
        chosen = ",".join((f"size={SIZE_BYTES}", *options))
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", chosen, "none", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine mounts nothing for us: {done.stderr.decode()}")
        return place

    yield mount
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_read_only_disk_is_read_and_refuses_to_record_and_is_left_as_it_was(disk: Callable[..., Path]) -> None:
    data = disk() / "data"
    record(data)
    listed = read(data, "ps")["items"]
    disk_again = subprocess.run(["mount", "-o", "remount,ro", data.parent], capture_output=True, check=False)
    assert disk_again.returncode == 0, disk_again.stderr
    before = contents(data)

    assert read(data, "ps")["items"] == listed
    for command in (["run", "--", "true"], ["rebuild"]):
        done = runfold(data, *command)
        assert done.returncode == 1, command
        assert done.stderr.startswith("error: "), command
        assert "\n\nhint: " in done.stderr, command
        assert "Traceback" not in done.stderr, command
    assert contents(data) == before


def test_a_full_disk_refuses_to_record_and_loses_nothing_and_goes_on_when_there_is_room(
    disk: Callable[..., Path],
) -> None:
    data = disk() / "data"
    record(data)
    before = read(data, "events", "@last")["items"]
    filler = data.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass

    refused = runfold(data, "run", "--", "true")
    reading = runfold(data, "ps")
    filler.unlink()
    kept = read(data, "events", str(before[0]["run_id"]))["items"]
    after = record(data)

    assert refused.returncode != 0
    assert "error: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "Traceback" not in reading.stderr
    assert reading.returncode == 0 or "\n\nhint: free or repair the disk" in reading.stderr
    assert kept == before
    assert after.returncode == 0, after.stderr
    assert read(data, "ps")["total"] >= 2
    assert runfold(data, "verify").returncode == 0


@pytest.mark.parametrize("command", [["ps"], ["status", "@last"], ["rebuild"], ["verify"], ["doctor"]])
def test_a_broken_pointer_is_told_by_every_command_with_what_is_safe(tmp_path: Path, command: list[str]) -> None:
    record(tmp_path)
    (tmp_path / "CURRENT").write_text("the newest\n")
    before = {name: content for name, content in contents(tmp_path).items() if not name.endswith((".lock", "-shm"))}

    done = runfold(tmp_path, *command)

    assert done.returncode == 1
    assert "does not hold a number" in done.stderr + done.stdout
    assert "delete it; the views are folded anew from the log" in done.stderr + done.stdout
    assert {name: contents(tmp_path)[name] for name in before} == before

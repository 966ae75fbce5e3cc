"""A real file system that is shut down under a writer, as a power cut does: what was acknowledged before is there."""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.effort import IS_LONG, SEED
from tests.torture.soundness import wrongs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN: even the journal in memory is dropped.
ROUNDS = 30 if IS_LONG else 2
ROUNDS_OF_THE_CONTROL_MAX = 60
SIZE_BYTES = 64 * 1024 * 1024


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


class Disk:
    def __init__(self, folder: Path) -> None:
        self.image, self.mounted = folder / "disk.img", folder / "mounted"
        self.mounted.mkdir()

    def make(self) -> None:
        self.image.write_bytes(b"")
        os.truncate(self.image, SIZE_BYTES)
        run("mkfs.ext4", "-q", "-F", self.image)
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", self.image, self.mounted)

    def unmount(self) -> None:
        run("umount", self.mounted)

    def cut(self) -> None:
        folder = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk, None, None]:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("a power cut needs root, Linux and mkfs.ext4")
    found = Disk(tmp_path)
    try:
        found.make()
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"this machine mounts no file system of ours: {error}")
    found.unmount()
    yield found
    subprocess.run(["umount", "-l", str(found.mounted)], capture_output=True, check=False)


def after_a_cut(disk: Disk, chance: random.Random, *mode: str) -> tuple[int, list[str]]:
    """How much was acknowledged before the power went, and what is wrong when it is back."""
    disk.make()
    data = disk.mounted / "data"
    data.mkdir()
    os.sync()
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.writer", str(data), "0", *mode],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert writer.stdout is not None
    # The power goes after so many lines, not after some time: how fast the machine is changes nothing.
    wanted = chance.randrange(50, 400)
    said = [line for line, _ in zip(writer.stdout, range(wanted), strict=False)]
    disk.cut()
    # What is said after the cut does not count; the writer must still be able to say it, and to end.
    drain = threading.Thread(target=writer.stdout.read)
    drain.start()
    writer.kill()
    writer.wait(30)
    drain.join(30)
    writer.stdout.close()
    disk.unmount()
    disk.mount()
    found = wrongs(data, [line.strip() for line in said])
    disk.unmount()
    return len(said), found


@pytest.mark.timeout(1800)
def test_t26_a_power_cut_of_a_real_file_system_loses_nothing_that_was_acknowledged(disk: Disk) -> None:
    chance = random.Random(SEED)
    acknowledged = 0

    for number in range(ROUNDS):
        said, found = after_a_cut(disk, chance)
        acknowledged += said
        assert found == [], f"seed {SEED}, round {number}"

    print(f"seed {SEED}: {ROUNDS} power cuts, {acknowledged} acknowledged, none lost")
    assert acknowledged >= 50 * ROUNDS


@pytest.mark.timeout(1800)
def test_t26_a_power_cut_takes_what_a_weaker_log_acknowledged(disk: Disk) -> None:
    chance = random.Random(SEED)

    lost = any(after_a_cut(disk, chance, "normal")[1] for _ in range(ROUNDS_OF_THE_CONTROL_MAX))

    assert lost

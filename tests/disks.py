"""Small disks of their own, so that a test can fill one."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(place: Path, size_bytes: int, *options: str) -> None:
    """Skips the test where nothing can be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk of its own needs root and Linux")
    place.mkdir(parents=True, exist_ok=True)
    chosen = ",".join((f"size={size_bytes}", *options))
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", chosen, "none", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts nothing for us: {done.stderr.decode()}")


def unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Generator[None]:
    mount(place, size_bytes)
    try:
        yield
    finally:
        unmount(place)

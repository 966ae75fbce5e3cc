"""The recorder of file changes under a program of ours, compiled where there is a compiler; or the test is skipped."""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("faults.c")


@functools.cache
def library() -> Path:
    """The compiled recorder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a C compiler on Linux is needed to put faults under the log")
    folder = Path(tempfile.mkdtemp(prefix="runfold-faults-"))
    target = folder / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, SOURCE, "-ldl", "-lpthread"], check=True)
    return target


def faulty(
    program: str, *arguments: object, below: Path, records: Path | None = None, reads: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program of this folder with its file changes below a folder recorded."""
    environ = {**os.environ, "LD_PRELOAD": str(library()), "FAULTS_DIR": str(below)}
    if records is not None:
        environ["FAULTS_RECORDS"] = str(records)
    if reads:
        environ["FAULTS_READS"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", f"tests.torture.{program}", *map(str, arguments)],
        cwd=ROOT,
        env=environ,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def arm(at: int, error: int, times: int) -> None:
    """From the `at`-th change on, so many calls fail with an errno (0 times: all; errno 0: the process is killed)."""
    ctypes.CDLL(None).faults_arm(ctypes.c_long(at), ctypes.c_int(error), ctypes.c_long(times))


def calls() -> int:
    """How many changes there were since `arm`."""
    counted = ctypes.CDLL(None).faults_calls
    counted.restype = ctypes.c_long
    return int(counted())

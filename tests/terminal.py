"""The command line as a person meets it: real processes on a real data folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def environment(data: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNFOLD_")}
    return {**kept, "RUNFOLD_DATA": str(data), "RUNFOLD_PORT": "0", **more}


def runfold(data: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `more` is added to its environment."""
    return subprocess.run(
        [sys.executable, "-m", "runfold", *arguments],
        cwd=ROOT,
        env=environment(data, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def read(data: Path, *arguments: str, **more: str) -> Any:
    done = runfold(data, *arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def record(data: Path, program: str = "print('hello')") -> subprocess.CompletedProcess[str]:
    return runfold(data, "run", "--quiet", "--", sys.executable, "-c", program)


@contextmanager
def started(data: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "runfold", *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(data),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()

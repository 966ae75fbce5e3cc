"""What the tests of lost drivers share: a workflow that leaves an escapee, a server of its own, and who is left."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from runfold.events import SubprocessOutput
from tests.working import PATIENCE_SECONDS, Working, working

ROOT = Path(__file__).parent.parent
ESCAPEE = Path(__file__).parent / "programs" / "escapee.py"
GRACE_SECONDS = 0.3


def escaping(folder: Path, on_lost: str, code: int | None = None) -> str:
    """A workflow whose first turn leaves an escapee and never ends, or ends with a code; its second is over at once."""
    escapee = f"{sys.executable} {ESCAPEE} {folder} {'' if code is None else code}"
    return (
        f"[workflow.w]\ncommand = ['sh', '-c', 'test -e again && exit 0; touch again; exec {escapee}']\n"
        f"grace_seconds = {GRACE_SECONDS}\non_lost = '{on_lost}'\n"
    )


async def queue(folder: Path, toml: str) -> str:
    (folder / "runfold.toml").write_text(toml)
    async with working(folder, toml, workers=0) as nobody:
        return await nobody.queue("w")


@contextmanager
def served(folder: Path, **environment: str) -> Generator["subprocess.Popen[bytes]"]:
    """`runfold up` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runfold", "--data", str(folder / "data"), "up", "--port", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


async def handles_of_escapee(watching: Working, run_id: str) -> list[int]:
    """The escapee and its parent, once both are up and have said so."""
    said = (await watching.wait_type(run_id, "subprocess_output")).event()
    assert isinstance(said, SubprocessOutput)
    return handles_of([int(word) for word in said.text.splitlines()[0].split()])


def handles_of(pids: list[int]) -> list[int]:
    """Descriptors on which a `select` waits for the end of each process that is there."""
    found: list[int] = []
    for pid in pids:
        try:
            found.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    return found


def are_gone(handles: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    gone = all(select.select([handle], [], [], max(0.0, end - time.monotonic()))[0] for handle in handles)
    for handle in handles:
        os.close(handle)
    return gone


def left_of(folder: Path, seconds: float, *, but: int = 0) -> list[str]:
    """The command lines that still name the folder after so many seconds; none, as soon as there are none.

    `but` is the number of a process that may be left.
    """
    end = time.monotonic() + seconds
    while found := _naming(folder, but):
        if not are_gone(handles_of([*found]), end - time.monotonic()):
            return [*found.values()]
    return []


def _naming(folder: Path, but: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and int(path.parent.name) != but:
            found[int(path.parent.name)] = words
    return found

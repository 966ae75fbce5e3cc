"""A lock that processes take in turn; who waits too long for it is told who holds it, and has changed nothing.

A blocking `flock` (flock(2)) waits for ever, also for a process that was stopped while it held the lock. So it is
asked for again and again, at intervals that do not grow while others work: with those of SQLite's own busy handler one
process starves the others, with these each of five gets its share (bench/fairness.py).
"""

import fcntl
import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from eventstore.stopped import LOCKS, is_stopped
from runfold.errors import Unavailable

NAP_SECONDS = 0.0002  # Shorter than the pause between two appends of whoever appends without end.
LONG_NAP_SECONDS = 0.01
STOPPED_SECONDS = 2.0  # Whoever was stopped (Ctrl-Z, SIGSTOP) does not go on by itself.
HELD_SECONDS = 600.0  # Who rewrites a log of many gigabytes holds it for minutes.
_HELD = re.compile(r"^\d+: FLOCK +\S+ +WRITE +(\d+) \S+:(\d+) ", re.M)


class FileLock:
    """The lock on an open file, held by who is in it; `path` names it in errors.

    To enter raises Unavailable where it cannot be had in time, OSError where the file system knows no lock.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path

    def __enter__(self) -> None:
        if not self._is_taken():
            self._wait()

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @contextmanager
    def held_if_free(self) -> Generator[bool]:
        """Whether it was free; nobody is waited for. Raises OSError where the file system knows no lock."""
        is_held = self._is_taken()
        try:
            yield is_held
        finally:
            if is_held:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _is_taken(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(self) -> None:
        began = time.monotonic()
        look_at = STOPPED_SECONDS
        time.sleep(NAP_SECONDS)
        while not self._is_taken():
            waited = time.monotonic() - began
            time.sleep(NAP_SECONDS if waited < STOPPED_SECONDS else LONG_NAP_SECONDS)
            if waited < look_at:
                continue
            look_at = waited + STOPPED_SECONDS
            holder = _holder(self._descriptor)
            stands_still = holder is not None and is_stopped(holder)
            if stands_still or waited >= HELD_SECONDS:
                raise _held_by(holder, self._path, waited, stands_still=stands_still)


def _holder(descriptor: int) -> int | None:
    """The process that holds a lock on the file, where the system tells (proc_locks(5))."""
    inode = os.fstat(descriptor).st_ino
    try:
        found = _HELD.findall(LOCKS.read_text())
    except OSError:
        return None
    return next((int(pid) for pid, held in found if int(held) == inode and int(pid)), None)


def _held_by(holder: int | None, path: Path, waited_seconds: float, *, stands_still: bool) -> Unavailable:
    who = "another process" if holder is None else f"process {holder}"
    hint = "nothing was changed; try again"
    if stands_still:
        who += ", which is stopped,"
        hint = f"`kill -CONT {holder}` lets it go on, or end it: nothing that was acknowledged is lost; then try again"
    return Unavailable(f"{who} has held `{path}` for {waited_seconds:.0f} s", hint=hint)

"""The log's journal: how large it is, and which processes keep what it holds from going into the log's file.

While a statement of a reader goes on, it holds a shared lock on one of five bytes of the journal's index (SQLite's
`walformat`, section 2.3.1), and `/proc/locks` says whose that is (proc_locks(5)). Every reader of ours is short; one
that was stopped (Ctrl-Z, SIGSTOP) in the middle of a statement holds it until it goes on, and the journal grows with
each append. Nobody can take that lock from it, so it is named. Whoever asks is not, nor is who runs beside one that
was stopped: their reads end by themselves.
"""

import os
import re
from pathlib import Path

import msgspec

from eventstore.log_file import LOG_FILE
from eventstore.stopped import LOCKS, is_stopped

JOURNAL_BYTES_MAX = 64 * 1024 * 1024
HOLDERS_NAMED_MAX = 10
_READ_LOCKS = range(123, 128)  # Where the index has the locks of its readers.
_HELD = re.compile(r"^\d+: POSIX +\S+ +READ +(\d+) \S+:(\d+) (\d+) ", re.M)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A process that reads the log now; `is_stopped`: it goes on only when somebody lets it."""

    pid: int
    is_stopped: bool


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """`held_by`: who was stopped in a read, or else who reads.

    It is empty while the journal is within its bound, and where the system does not tell.
    """

    size_bytes: int
    held_by: tuple[Holder, ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong with it; empty where nothing is."""
        if not self.held_by:
            return ""
        who = ", ".join(f"process {holder.pid}{' (stopped)' * holder.is_stopped}" for holder in self.held_by)
        return f"the log's journal has grown to {self.size_bytes / 1_000_000:.0f} MB: it is held by a read of {who}"

    @property
    def remedy(self) -> str:
        if not self.held_by:
            return ""
        stopped = [str(holder.pid) for holder in self.held_by if holder.is_stopped]
        if not stopped:
            return "wait for its end, or end it: nothing that was acknowledged is lost"
        return f"`kill -CONT {' '.join(stopped)}` lets it go on, or end it: nothing that was acknowledged is lost"


def journal_of(data: Path) -> Journal:
    """The journal of a folder's log; who reads is only asked where it is larger than its bound."""
    size_bytes = 0
    try:
        size_bytes = (data / f"{LOG_FILE}-wal").stat().st_size
        if size_bytes <= JOURNAL_BYTES_MAX:
            return Journal(size_bytes=size_bytes)
        index = (data / f"{LOG_FILE}-shm").stat().st_ino
        found = _HELD.findall(LOCKS.read_text())
    except OSError:  # Nobody has it open, or the system does not tell.
        return Journal(size_bytes=size_bytes)
    pids = {int(pid) for pid, inode, start in found if int(inode) == index and int(start) in _READ_LOCKS and int(pid)}
    readers = [Holder(pid=pid, is_stopped=is_stopped(pid)) for pid in sorted(pids - {os.getpid()})]
    held_by = [reader for reader in readers if reader.is_stopped] or readers
    return Journal(size_bytes=size_bytes, held_by=tuple(held_by[:HOLDERS_NAMED_MAX]))

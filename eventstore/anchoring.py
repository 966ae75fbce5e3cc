"""Anchors: each seals all events since the one before it."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from eventstore.sqlite3_module import sqlite3

ANCHORS_FILE = "anchors.jsonl"
LINE_BYTES_MAX = 4_096  # Far more than an anchor takes.
ANCHORED = "SELECT position, recorded_at_us, hash FROM events WHERE position > ? AND position <= ? ORDER BY position"


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `anchors.jsonl`: what the log was up to a position, in hexadecimal digests."""

    position: int
    digest: str
    previous: str = ""
    log_id: str = ""
    signature: str = ""
    """Of an exported one, see `eventstore.proof.signing`."""


def write_anchor(
    connection: sqlite3.Connection, position: int, *, at_least: int, unsealed: bytes | bytearray | None = None
) -> str | None:
    """Seal the log up to a position where `at_least` positions are not yet sealed; the line for anchors.jsonl.

    `unsealed` is what the anchor holds of all events since the last one, where that is known and need not be read.
    """
    row = connection.execute("SELECT position, digest FROM anchors ORDER BY position DESC LIMIT 1").fetchone()
    sealed, previous = (0, b"") if row is None else row
    if position - sealed < at_least:
        return None
    from eventstore.chain import anchor_digest, digest_of_anchored

    if unsealed is None:
        digest = anchor_digest(previous, connection.execute(ANCHORED, (sealed, position)))
    else:
        digest = digest_of_anchored(previous, unsealed)
    connection.execute(
        "INSERT INTO anchors (position, digest, previous) VALUES (?, ?, ?)", (position, digest, previous)
    )
    line = {"position": position, "digest": digest.hex(), "previous": previous.hex()}
    return msgspec.json.encode(line).decode() + "\n"


class AnchorFile:
    """`anchors.jsonl` of a data folder. What cannot be written there is left out: the log holds the anchor too."""

    def __init__(self, data: Path) -> None:
        self._path = data / ANCHORS_FILE
        self._syncing: threading.Thread | None = None

    def add(self, line: str) -> None:
        """Written when this returns, and on the disk soon after: nobody's append waits for a second file."""
        with suppress(OSError, RuntimeError):  # Of a system that has no thread more.
            file = self._path.open("ab+", buffering=0)
            try:
                _drop_torn(file)
                file.write(line.encode())
                self.wait()
                self._syncing = threading.Thread(target=_sync, args=(file,), name="anchors")
                self._syncing.start()
            except BaseException:
                self._syncing = None
                file.close()
                raise

    def wait(self) -> None:
        """Until all that was added is on the disk."""
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None


def _drop_torn(file: IO[bytes]) -> None:
    """Take back what a crash or a full disk has left of a line: it would spoil the next one."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - LINE_BYTES_MAX))
    end = file.read()
    whole = end.rfind(b"\n") + 1
    if whole < len(end) and (whole or not start):
        file.truncate(start + whole)


def _sync(file: IO[bytes]) -> None:
    with file, suppress(OSError):
        os.fsync(file.fileno())

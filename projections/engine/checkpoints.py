"""Where each view of a file stands in the log, and what made it: rows and checkpoint move in one transaction."""

from collections.abc import Iterable

import msgspec

from eventstore.contract import Bounds
from eventstore.reading import bounds, hash_at
from eventstore.sqlite3_module import sqlite3

CHECKPOINTS_DDL = """CREATE TABLE IF NOT EXISTS checkpoints (
    view TEXT PRIMARY KEY,
    log_id TEXT NOT NULL, -- Empty before the first event.
    position INTEGER NOT NULL, -- Of the last event folded.
    hash BLOB NOT NULL, -- Of that event.
    fingerprint TEXT NOT NULL,
    status TEXT NOT NULL, -- 'live', or 'parked' before an event that its fold cannot take.
    error TEXT NOT NULL
) STRICT"""


CHECKPOINT_COLUMNS = ["view", "log_id", "position", "hash", "fingerprint", "status", "error"]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    log_id: str = ""
    position: int = 0
    hash: bytes = b""
    fingerprint: str = ""
    status: str = "live"
    error: str = ""

    @property
    def place(self) -> tuple[str, int, bytes]:
        return self.log_id, self.position, self.hash


def read_checkpoints(connection: sqlite3.Connection) -> dict[str, Checkpoint]:
    """Where each view of a views file stands, by name."""
    rows = connection.execute(
        "SELECT view, log_id, position, hash, fingerprint, status, error FROM checkpoints"
    ).fetchall()
    return {
        row[0]: Checkpoint(log_id=row[1], position=row[2], hash=row[3], fingerprint=row[4], status=row[5], error=row[6])
        for row in rows
    }


def bounds_of(log: sqlite3.Connection | None) -> Bounds:
    return Bounds(first=1, last=0, log_id="") if log is None else bounds(log)


def foreign_places(
    log: sqlite3.Connection | None, head: Bounds, checkpoints: Iterable[Checkpoint]
) -> set[tuple[str, int, bytes]]:
    """The places that the log does not have; views stand at few places, so each is looked up once."""
    places = {checkpoint.place: checkpoint for checkpoint in checkpoints}
    return {place for place, checkpoint in places.items() if not is_held(log, head, checkpoint)}


def is_held(log: sqlite3.Connection | None, head: Bounds, checkpoint: Checkpoint) -> bool:
    """Whether the log has the event that the checkpoint stands at."""
    if checkpoint.position == 0:
        return True
    if log is None or checkpoint.log_id != head.log_id or checkpoint.position > head.last:
        return False
    if checkpoint.position < head.first:
        # Trimmed: the event is gone, but it was this log's.
        return True
    return hash_at(log, checkpoint.position) == checkpoint.hash

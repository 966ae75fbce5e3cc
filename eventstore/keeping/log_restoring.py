"""A lost log made again from its second copy, proved before it has its name: the same positions, ids and hashes.

What the copy does not have yet was never promised by it. The views are folded anew from the log.
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from eventstore.anchoring import ANCHORED, write_anchor
from eventstore.blocks import DELETE_BEFORE
from eventstore.chain import anchor_digest
from eventstore.durable import sync
from eventstore.failpoints import reach
from eventstore.file_systems import refuse_network
from eventstore.keeping.second_copy import Rows, SecondCopy
from eventstore.keeping.segments import SealedAnchor, Segment
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.objects.object_store import ObjectStore
from eventstore.objects.shared_blobs import fetch_from
from eventstore.objects.shared_outputs import bring_output, output_of
from eventstore.proof.attachments import blobs_of
from eventstore.proof.verifying import Proof
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import INSERT_WHOLE, WholeRow
from eventstore.writing import SCHEMA
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import BadRequest, NotFound, Refused
from runfold.events import RunArchived

_HEAD = (
    "INSERT INTO heads (run_id, position, version, hash) VALUES (?, ?, ?, ?) ON CONFLICT (run_id)"
    " DO UPDATE SET position = excluded.position, version = excluded.version, hash = excluded.hash"
)


class RestoredLog(msgspec.Struct, frozen=True, kw_only=True):
    """`missing`: blobs and outputs that events name and the store does not have."""

    log_id: str
    position: int
    segments: int
    events: int
    files: int
    missing: tuple[str, ...] = ()


def restore_log(
    copy: SecondCopy, store: ObjectStore, data: Path, *, on_segment: Callable[[Segment], object] | None = None
) -> RestoredLog:
    """Make the log in a folder that has none; one that was cut off is done again.

    Raises BadRequest, NotFound where there is no copy, Damaged where a segment is missing or does not hold, Refused
    where the log does not prove itself, Unavailable, OSError, InvalidSetting for a network file system.
    """
    refuse_network(data)
    if (data / LOG_FILE).exists():
        raise BadRequest(f"`{data}` holds a log already", hint="name an empty folder; nothing was changed")
    # In a folder of its own, so that the proof finds it under its usual name.
    making = data / ".restoring"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700, parents=True)
    path = making / LOG_FILE
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.executescript(SCHEMA.read_text(encoding="utf-8"))
        connection.execute("INSERT INTO head VALUES (1, ?, 0, 0, 0)", (copy.log_id,))
        restoring = _Restoring(connection, store, data)
        for segment, rows in copy.parts():
            restoring.add(segment, rows)
            reach("restore.segment")
            if on_segment is not None:
                on_segment(segment)
        if not restoring.segments:
            raise NotFound(f"the store has no copy of the log {copy.log_id}", hint="nothing was changed")
        restored = restoring.finish()
    with closing(open_reader(making)) as connection:
        fault = next(Proof(connection).faults(), None)
    if fault is not None:
        raise Refused(f"the copy does not prove itself: {fault.message}", hint="nothing was changed")
    sync(path)
    path.replace(data / LOG_FILE)
    shutil.rmtree(making)
    sync(data)
    return restored


class _Restoring:
    def __init__(self, connection: sqlite3.Connection, store: ObjectStore, data: Path) -> None:
        self._connection, self._store, self._data = connection, store, data
        self._missing: dict[str, None] = {}
        self._files = self._events = self.segments = 0
        self._sealed = b""
        self._last: Segment | None = None

    def add(self, segment: Segment, rows: Rows) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany(INSERT_WHOLE, rows)
        self._connection.executemany(_HEAD, [(row.run_id, row.position, row.version, row.hash) for row in rows])
        for row in rows:
            if row.run_id == SYSTEM_STREAM and row.type == "run_archived" and row.data is not None:
                self._trim(row.position, row.data)
            else:
                self._bring(row)
        for anchor in segment.anchors:
            self._seal(anchor)
        self._connection.execute(
            "UPDATE head SET position = ?, trimmed_to = ?, recorded_at_us = max(recorded_at_us, ?)",
            (segment.upto, segment.trimmed_to, rows[-1].recorded_at_us if rows else 0),
        )
        self._connection.execute("COMMIT")
        self.segments, self._events, self._last = self.segments + 1, self._events + len(rows), segment

    def _trim(self, position: int, data: bytes) -> None:
        """A run that the log gave up: its events may stand in older segments still, its head stands in none."""
        told = msgspec.json.decode(data, type=RunArchived)
        if not told.counts.get("trimmed"):
            return
        summary: Any = told.summary
        self._connection.execute("DROP TRIGGER IF EXISTS events_remain")
        self._connection.execute(DELETE_BEFORE, (told.run_id, position))
        closed = told.counts.get("closed", 0)
        last = position - 1 if closed else summary["position"]
        head = (told.run_id, last, told.counts["trimmed"] + closed, bytes.fromhex(told.digests["hash"]))
        self._connection.execute(_HEAD, head)

    def _bring(self, row: WholeRow) -> None:
        """The blobs and outputs that an event names; those of trimmed runs are not there any more."""
        try:
            content: Any = None if row.data is None else msgspec.json.decode(row.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        for sha256 in blobs_of(row.type, content):
            path = self._data / "blobs" / sha256[:2] / sha256
            if path.exists() or fetch_from(self._store, sha256, path):
                self._files += 1
            else:
                self._missing[sha256] = None
        output = output_of(row.type, content)
        if output is not None:
            if bring_output(self._store, self._data / "runs" / row.run_id / "output.log", output):
                self._files += 1
            else:
                self._missing[output.sha256] = None

    def _seal(self, anchor: SealedAnchor) -> None:
        """An anchor of the log that follows on the last one: others were made by another machine of a cluster."""
        row = self._connection.execute("SELECT position, digest FROM anchors ORDER BY position DESC LIMIT 1").fetchone()
        sealed, digest = row or (0, b"")
        if anchor.previous != digest.hex():
            return
        rows = self._connection.execute(ANCHORED, (sealed, anchor.position))
        if anchor_digest(digest, rows).hex() == anchor.digest:
            values = (anchor.position, bytes.fromhex(anchor.digest), digest)
            self._connection.execute("INSERT INTO anchors (position, digest, previous) VALUES (?, ?, ?)", values)

    def finish(self) -> RestoredLog:
        assert self._last is not None  # noqa: S101
        trigger = "SELECT 1 FROM sqlite_schema WHERE name = 'events_remain'"
        if self._connection.execute(trigger).fetchone() is None:
            self._connection.execute(_events_remain())
        write_anchor(self._connection, self._last.upto, at_least=1)
        return RestoredLog(
            log_id=self._last.log_id,
            position=self._last.upto,
            segments=self.segments,
            events=self._connection.execute("SELECT count(*) FROM events").fetchone()[0],
            files=self._files,
            missing=tuple(self._missing),
        )


def _events_remain() -> str:
    """The trigger as the schema makes it."""
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(SCHEMA.read_text(encoding="utf-8"))
        sql: str = fresh.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_remain'").fetchone()[0]
    return sql

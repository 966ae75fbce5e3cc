"""Keeping the second copy of a log: what the log got since goes to the store in parts, made by one machine at a time.

There is no lease: who made the last part makes the next one, and where he is silent, whoever is there. Two that go on
at once are harmless, for the store takes each number once. Every machine looks at what the others made, so a log and a
copy that differ are noticed with the next part.
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from eventstore.blocks import OF_RUN
from eventstore.failpoints import reach
from eventstore.keeping.second_copy import EVENTS_BETWEEN, Comparison, Rows, SecondCopy
from eventstore.keeping.segments import SealedAnchor, Segment, digest_of, encode_segment
from eventstore.mirrored import mirrored_log
from eventstore.moment import one_moment
from eventstore.objects.object_store import open_store
from eventstore.objects.shared_blobs import blob_key
from eventstore.objects.shared_outputs import output_of, share_output
from eventstore.proof.attachments import blobs_of
from eventstore.proof.checking import open_checked
from eventstore.reading import check_page
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WholeRow, whole_rows
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import Diverged, NotFound
from runfold.events import REWRITES, RunArchived

EVENTS_MAX = 5_000  # Of one segment: some hundred KiB, encoded in less than 0.1 s.
SILENT_SECONDS = 120.0  # Without a segment of another machine, and this one makes the next.
_FIRST_ROWS = f"{EVENTS_BETWEEN} LIMIT ?"


class Keeper:
    """One machine's part in it. `writer` names the machine, the same after a restart."""

    def __init__(
        self,
        data: Path,
        url: str,
        *,
        writer: str,
        silent_seconds: float = SILENT_SECONDS,
        events_max: int = EVENTS_MAX,
        monotonic: Callable[[], float] = time.monotonic,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Raises InvalidSetting where the url names no store."""
        self._data, self._store, self._writer = data, open_store(url), writer
        self._silent_seconds, self._events_max = silent_seconds, events_max
        self._monotonic, self._now_us = monotonic, now_us
        self._last: tuple[Segment, Rows] | None = None
        self._seen_at = monotonic()
        self._is_begun = False

    def step(self) -> Segment | None:
        """Look at what others made, then make the next segment if it is this machine's to make; None where it is not.

        Raises Unavailable where the store does not answer, Damaged, and Diverged where log and copy are not one.
        """
        with closing(self._open()) as connection:
            log_id, head = connection.execute("SELECT log_id, position FROM head").fetchone()
            copy = SecondCopy(self._store, log_id)
            self._look(connection, copy)
            last = None if self._last is None else self._last[0]
            if last is not None and last.upto >= head:
                return None
            if last is not None and last.writer != self._writer:
                if self._monotonic() - self._seen_at < self._silent_seconds:
                    return None
                # Who made it may have ended before he took from older segments what it says is gone.
                self._rewrite(connection, copy)
            return self._make(connection, copy, last, head) if head else None

    def _open(self) -> sqlite3.Connection:
        connection = open_checked(self._data)
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection

    def _look(self, connection: sqlite3.Connection, copy: SecondCopy) -> None:
        """Go on to the last segment there is; each that is new here must be of this very log."""
        if not self._is_begun:
            count = copy.count()
            self._last = copy.read(count) if count else None
            if self._last is not None:
                self._compare(connection, copy, self._last)
                if self._last[0].writer == self._writer:
                    self._rewrite(connection, copy)
            self._is_begun = True
        number = 1 if self._last is None else self._last[0].number + 1
        while (found := copy.read(number)) is not None:
            self._compare(connection, copy, found)
            self._last, self._seen_at, number = found, self._monotonic(), number + 1

    def _compare(self, connection: sqlite3.Connection, copy: SecondCopy, found: tuple[Segment, Rows]) -> None:
        is_mirror = mirrored_log(self._data) is not None
        fault = Comparison(connection, copy, is_mirror=is_mirror).difference(*found)
        if fault is not None:
            raise Diverged(
                f"the log is not the one that the store has a copy of: {fault.message}",
                earliest=0,
                hint="`runfold verify` compares all of it; after a restore name a new store for the second copy",
            )

    def _make(
        self, connection: sqlite3.Connection, copy: SecondCopy, last: Segment | None, head: int
    ) -> Segment | None:
        after, number, previous = (0, 1, "") if last is None else (last.upto, last.number + 1, last.digest)
        with one_moment(connection):
            rows = [*whole_rows(connection.execute(_FIRST_ROWS, (after, head, self._events_max + 1)))]
            upto = head
            if len(rows) > self._events_max:
                rows = _whole(connection, rows[: self._events_max], head)
                upto = rows[-1].position
            check_page(connection, [row.position for row in rows], None, after=after, stream=None, upto=upto)
            trimmed_to = connection.execute("SELECT trimmed_to FROM head").fetchone()[0]
            anchors = _anchors(connection, after, upto)
        self._share(rows)
        reach("copy.shared")
        segment = Segment(
            log_id=copy.log_id,
            number=number,
            after=after,
            upto=upto,
            events=len(rows),
            previous=previous,
            digest=digest_of(previous, rows),
            trimmed_to=trimmed_to,
            writer=self._writer,
            made_at_us=self._now_us(),
            anchors=anchors,
        )
        if not copy.create(number, encode_segment(segment, rows)):
            return None  # Somebody was quicker; his is looked at the next time.
        self._last, self._seen_at = (segment, rows), self._monotonic()
        reach("copy.created")
        self._rewrite(connection, copy)
        return segment

    def _share(self, rows: Rows) -> None:
        """What events name is in the store before they are: where a machine has it, it is not another's to bring."""
        for row in rows:
            content = _content(row)
            for sha256 in blobs_of(row.type, content):
                path = self._data / "blobs" / sha256[:2] / sha256
                if path.is_file() and not self._store.has(blob_key(sha256)):
                    self._store.create(blob_key(sha256), path)
            output = output_of(row.type, content)
            if output is not None:
                share_output(self._store, self._data / "runs" / row.run_id / "output.log", output)

    def _rewrite(self, connection: sqlite3.Connection, copy: SecondCopy) -> None:
        """Take from older segments what the last one says is redacted, cleaned or trimmed; twice is harmless."""
        if self._last is None:
            return
        count = self._last[0].number
        for run_id, upto in _rewritten(self._last[1]).items():
            first, last = 1, count if upto is None else copy.holding(upto, count=count)
            held = connection.execute(f"SELECT min(position) FROM {OF_RUN} WHERE run_id = ?", (run_id,)).fetchone()[0]  # noqa: S608
            if held is not None:
                first = copy.holding(held, count=count)
            for number in range(first, last + 1):
                found = copy.read(number)
                if found is None:
                    raise NotFound(f"segment {number} of the second copy is missing")
                segment, rows = found
                if any(row.run_id == run_id for row in rows):
                    ours = [*whole_rows(connection.execute(EVENTS_BETWEEN, (segment.after, segment.upto)))]
                    self._forget(connection, _named(rows) - _named(ours))
                    copy.replace(number, encode_segment(segment, ours))
                    reach("copy.rewritten")

    def _forget(self, connection: sqlite3.Connection, names: set[str]) -> None:
        """Take from the store what no event names any more."""
        query = "SELECT 1 FROM events WHERE data IS NOT NULL AND instr(data, CAST(? AS BLOB)) LIMIT 1"
        for sha256 in names:
            if connection.execute(query, (sha256,)).fetchone() is None:
                self._store.remove(blob_key(sha256))


def _whole(connection: sqlite3.Connection, rows: Rows, head: int) -> Rows:
    """The rows and what belongs to the last append among them: all events of one were recorded at one time."""
    last = rows[-1]
    query = f"{EVENTS_BETWEEN.removesuffix(' ORDER BY position')} AND recorded_at_us = ? ORDER BY position"
    return [*rows, *whole_rows(connection.execute(query, (last.position, head, last.recorded_at_us)))]


def _content(row: WholeRow) -> Any:
    try:
        return None if row.data is None else msgspec.json.decode(row.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _named(rows: Rows) -> set[str]:
    """The blobs that events name, outputs of turns too."""
    found = set[str]()
    for row in rows:
        content = _content(row)
        found.update(blobs_of(row.type, content))
        output = output_of(row.type, content)
        if output is not None:
            found.add(output.sha256)
    return found


def _anchors(connection: sqlite3.Connection, after: int, upto: int) -> tuple[SealedAnchor, ...]:
    query = "SELECT position, digest, previous FROM anchors WHERE position > ? AND position <= ? ORDER BY position"
    return tuple(
        SealedAnchor(position=position, digest=digest.hex(), previous=previous.hex())
        for position, digest, previous in connection.execute(query, (after, upto))
    )


def _rewritten(rows: Rows) -> dict[str, int | None]:
    """The runs of which a segment says that earlier events are no longer what they were; and up to where, if known."""
    found: dict[str, int | None] = {}
    for row in rows:
        if row.type not in REWRITES or row.data is None:
            continue
        if row.run_id != SYSTEM_STREAM:
            found[row.run_id] = row.position
        else:
            found[msgspec.json.decode(row.data, type=RunArchived).run_id] = None
    return found

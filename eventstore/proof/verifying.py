"""The proof of a log: every event matches its hash, nothing is missing, moved or added, and every anchor still holds.

The log is read in pages up to the head it had at the start, so it may be written to meanwhile.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import msgspec

from eventstore.anchoring import ANCHORED, Anchor
from eventstore.blocks import IS_FOUND
from eventstore.chain import anchor_digest, data_digest, link
from eventstore.proof.faults import OF_ANOTHER_KIND, Fault
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS, WholeRow, whole_rows
from eventstore.writing import SCHEMA
from runfold.envelope import SYSTEM_STREAM
from runfold.events import EventRedacted, RunArchived

PAGE_ROWS = 1_000
_NOT_FOUND = (
    "SELECT min(position), run_id FROM events WHERE position > ? AND position <= ?"  # noqa: S608
    f" AND NOT {IS_FOUND} GROUP BY run_id, block ORDER BY 1 LIMIT ?"
)
_FOUND_IN_VAIN = (
    "SELECT run_id, block FROM run_blocks AS known WHERE NOT EXISTS"
    " (SELECT 1 FROM events WHERE events.block = known.block AND events.run_id = known.run_id) LIMIT ?"
)
_EVENTS = f"SELECT {WHOLE_COLUMNS} FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"  # noqa: S608


class Proof:
    """What was found in one log; `events`, `runs` and `anchors` count what was looked at."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._heads: dict[str, tuple[int, int, bytes]] = {}
        self._left: dict[tuple[str, int], tuple[int, str]] = {}
        """Of redacted events of which something is left: where they stand, and its digest."""
        self._told: dict[tuple[str, int], str] = {}
        self._gone = 0
        self._trimmed: dict[int, int] = {}
        """Events that each summary stands for."""
        self._trimmed_heads: dict[str, str] = {}
        self.events = 0
        self.anchors = 0
        """Of one that is kept in several places, one."""
        row = connection.execute("SELECT position, trimmed_to, recorded_at_us, log_id FROM head").fetchone()
        self.head, self.trimmed_to, self._recorded_at_us, self.log_id = row

    @property
    def runs(self) -> int:
        return len(self._heads.keys() - {SYSTEM_STREAM})

    def faults(
        self, *, anchors: Iterable[Anchor] = (), on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Fault]:
        """Everything that does not match, in the order of the log. Raises nothing: a damaged file is a fault too."""
        try:
            yield from self._schema()
            yield from self._events(on_progress)
            yield from self._redactions()
            yield from self._run_heads()
            yield from self._found_in_vain()
            yield from self._anchors(anchors)
        except sqlite3.DatabaseError as error:
            yield Fault(kind="file", message=f"the log's file is damaged: {error}")
        except OF_ANOTHER_KIND as error:
            yield Fault(kind="file", message=f"the log's file holds a value of another kind: {error}")

    def _schema(self) -> Iterator[Fault]:
        """A trigger that is gone lets history be edited by accident; what is more may hide something."""
        expected = sqlite3.connect(":memory:")
        try:
            expected.executescript(SCHEMA.read_text(encoding="utf-8"))
            query = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
            wanted, found = dict(expected.execute(query)), dict(self._connection.execute(query))
        finally:
            expected.close()
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                how = "missing" if name not in found else "not runfold's" if name not in wanted else "changed"
                yield Fault(kind="file", message=f"`{name}` in the log's file is {how}")

    def _events(self, on_progress: Callable[[int, int], None] | None) -> Iterator[Fault]:
        after, recorded_at_us = 0, 0
        while True:
            rows = [*whole_rows(self._connection.execute(_EVENTS, (after, self.head, PAGE_ROWS)))]
            for row in rows:
                position = row.position
                yield from self._hole(after + 1, position - 2 if is_closing(row) else position - 1)
                after = position
                yield from self._event(row)
                if row.recorded_at_us < recorded_at_us:
                    yield Fault(
                        kind="event",
                        message=f"event {position} was recorded before the one before it",
                        run_id=row.run_id,
                        position=position,
                    )
                recorded_at_us = row.recorded_at_us
            if rows:
                yield from self._not_found(rows[0].position - 1, after)
            if on_progress is not None:
                on_progress(after, self.head)
            if len(rows) < PAGE_ROWS:
                break
        yield from self._hole(after + 1, self.head)
        trimmed = sum(self._trimmed.values())
        if self._gone != trimmed:
            message = f"{self._gone} events up to {self.trimmed_to} are gone, and {trimmed} were trimmed"
            yield Fault(kind="event", message=message, position=1)
        beyond = self._connection.execute(
            "SELECT min(position) FROM events WHERE position > (SELECT position FROM head)"
        ).fetchone()[0]
        if beyond is not None:
            yield Fault(kind="head", message=f"event {beyond} is beyond the log's head", position=beyond)
        if after == self.head and recorded_at_us > self._recorded_at_us:
            yield Fault(kind="head", message="the log's head was recorded before its last event", position=after)

    def _hole(self, first: int, last: int) -> Iterator[Fault]:
        """Positions without an event: below the trimmed start they are counted, above it each is a fault."""
        self._gone += max(0, min(last, self.trimmed_to) - first + 1)
        first = max(first, self.trimmed_to + 1)
        if first <= last:
            yield Fault(kind="event", message=_missing(first, last), position=first)

    def _event(self, row: WholeRow) -> Iterator[Fault]:
        position, run_id, version = row.position, row.run_id, row.version
        self.events += 1
        _, last_version, previous = self._heads.get(run_id, (0, 0, b""))
        if version != last_version + 1:
            yield Fault(
                kind="event",
                message=f"version {version} of `{run_id}` at position {position} follows version {last_version}",
                run_id=run_id,
                position=position,
            )
        try:
            expected = hash_of(row, previous)
        except OF_ANOTHER_KIND:
            expected = b""
        if expected != row.hash:
            yield Fault(
                kind="event",
                message=f"event {position}, version {version} of `{run_id}`, does not match its hash",
                run_id=run_id,
                position=position,
            )
        self._heads[run_id] = (position, version, row.hash)
        if row.data is None:
            return
        if row.digest is not None:
            self._left[run_id, version] = (position, hashlib.sha256(row.data).hexdigest())
        if row.type == "event_redacted":
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                told = msgspec.json.decode(row.data, type=EventRedacted)
                self._told[run_id, told.version] = told.digests.get("data", "")
        if row.type == "run_archived" and run_id == SYSTEM_STREAM:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                archived = msgspec.json.decode(row.data, type=RunArchived)
                self._trimmed[position] = archived.counts.get("trimmed", 0)
                self._trimmed_heads[archived.run_id] = archived.digests.get("hash", "")

    def _redactions(self) -> Iterator[Fault]:
        """What is left of a redacted event must be what its redaction left of it."""
        for (run_id, version), (position, digest) in self._left.items():
            if self._told.get((run_id, version)) != digest:
                yield Fault(
                    kind="event",
                    message=f"event {position}, version {version} of `{run_id}`, is not what its redaction left of it",
                    run_id=run_id,
                    position=position,
                )

    def _not_found(self, after: int, upto: int) -> Iterator[Fault]:
        """Events that nobody who reads their run comes to."""
        for position, run_id in self._connection.execute(_NOT_FOUND, (after, upto, PAGE_ROWS)).fetchall():
            message = f"event {position} of `{run_id}` and those of its block are not found by their run"
            yield Fault(kind="event", message=message, run_id=run_id, position=position)

    def _found_in_vain(self) -> Iterator[Fault]:
        for run_id, block in self._connection.execute(_FOUND_IN_VAIN, (PAGE_ROWS,)).fetchall():
            yield Fault(kind="file", message=f"block {block} of the log has no events of `{run_id}`", run_id=run_id)

    def _run_heads(self) -> Iterator[Fault]:
        # Only heads up to where we looked: the log may have grown since.
        known = {
            row[0]: (row[1], row[2], row[3])
            for row in self._connection.execute("SELECT run_id, position, version, hash FROM heads").fetchall()
            if row[1] <= self.head or row[0] not in self._heads
        }
        for run_id, head in known.items():
            is_summed_up = self._trimmed_heads.get(run_id) == head[2].hex()
            if run_id not in self._heads and head[0] <= self.head and not is_summed_up:
                yield Fault(
                    kind="head", message=f"run `{run_id}` has no events any more", run_id=run_id, position=head[0]
                )
        for run_id, (position, version, event_hash) in self._heads.items():
            remembered = known.get(run_id)
            if remembered is None:
                if self._has_head_beyond(run_id):
                    continue
                message = f"the log does not remember the last event of `{run_id}`"
            elif remembered == (position, version, event_hash):
                continue
            else:
                message = f"the last event of `{run_id}` is version {version}, the log remembers {remembered[1]}"
            yield Fault(kind="head", message=message, run_id=run_id, position=position)

    def _has_head_beyond(self, run_id: str) -> bool:
        row = self._connection.execute("SELECT position FROM heads WHERE run_id = ?", (run_id,)).fetchone()
        return row is not None and row[0] > self.head

    def _anchors(self, given: Iterable[Anchor]) -> Iterator[Fault]:
        held: dict[int, str] = {}
        sealed, digest = 0, b""
        query = "SELECT position, digest, previous FROM anchors WHERE position <= ? ORDER BY position"
        for position, stored, previous in self._connection.execute(query, (self.head,)).fetchall():
            held[position] = stored.hex()
            expected = anchor_digest(digest, self._connection.execute(ANCHORED, (sealed, position)))
            # What is trimmed cannot be sealed again; the chain of the anchors themselves still holds.
            is_whole = sealed >= self.trimmed_to
            if previous != digest or (is_whole and stored != expected):
                yield Fault(
                    kind="anchor",
                    message=f"events {sealed + 1} to {position} are not those of the anchor at {position}",
                    position=sealed + 1,
                )
            sealed, digest = position, stored
        seen = set(held)
        for anchor in given:
            seen.add(anchor.position)
            yield from self._given(anchor, held)
        self.anchors = len(seen)

    def _given(self, anchor: Anchor, held: dict[int, str]) -> Iterator[Fault]:
        if held.get(anchor.position) == anchor.digest:
            return
        if anchor.position > self.head:
            message = f"the log ends at {self.head}; an anchor was made at {anchor.position}"
        else:
            message = f"the log is not the one that the anchor at {anchor.position} was made of"
        yield Fault(kind="anchor", message=message, position=min(anchor.position, self.head + 1))


def _missing(first: int, last: int) -> str:
    return f"event {first} is missing" if first == last else f"events {first} to {last} are missing"


def hash_of(row: WholeRow, previous: bytes) -> bytes:
    return link(
        previous,
        tenant=row.tenant,
        run_id=row.run_id,
        version=row.version,
        identity=row.id,
        type_name=row.type,
        schema=row.schema,
        at_us=row.at_us,
        actor=row.actor,
        cause=row.cause,
        command=row.command,
        sent=row.sent,
        correlation=row.correlation,
        digest=data_digest(row.salt or b"", row.data or b"") if row.digest is None else row.digest,
    )


def is_closing(row: WholeRow) -> bool:
    """Whether an event sums up a run that was closed, and then trimmed, by the event right before it.

    So it is in a log that several machines share; the position before is then empty, above the trimmed start too.
    """
    if row.type != "run_archived" or row.run_id != SYSTEM_STREAM or row.data is None:
        return False
    try:
        return bool(msgspec.json.decode(row.data, type=RunArchived).counts.get("closed"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False

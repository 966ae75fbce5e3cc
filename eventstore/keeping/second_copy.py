"""The second copy of a log: its segments in an object store, each made once, numbered and chained, so a gap shows.

Segments lie at `log/<log id>/<number>.jsonl.zst`. Whoever makes the next one asks the store to refuse a number that is
there, so two writers cannot both go on from one segment.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from eventstore.keeping.segments import Segment, decode_segment
from eventstore.objects.object_store import ObjectStore
from eventstore.proof.faults import Fault
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS, WholeRow, whole_rows
from runfold.errors import BadRequest, Damaged, NotFound
from runfold.events import EventRedacted

PREFIX = "log"
READ_AHEAD = 16  # Segments on their way at once.
Rows = list[WholeRow]
EVENTS_BETWEEN = f"SELECT {WHOLE_COLUMNS} FROM events WHERE position > ? AND position <= ? ORDER BY position"  # noqa: S608
_COMPARED = tuple(name for name in WholeRow._fields if name != "recorded_at_us")
"""Times are the log's own; a mirror that began later may have put some a little earlier."""
_MAY_GO = frozenset({"salt", "data", "digest"})
"""What a redaction takes or leaves."""


class SecondCopy:
    """One log's segments. Methods raise Unavailable where the store does not answer."""

    def __init__(self, store: ObjectStore, log_id: str) -> None:
        self._store = store
        self.log_id = log_id

    def key(self, number: int) -> str:
        return f"{PREFIX}/{self.log_id}/{number:012d}.jsonl.zst"

    def has(self, number: int) -> bool:
        return self._store.has(self.key(number))

    def read(self, number: int) -> tuple[Segment, Rows] | None:
        """A segment, None where there is none. Raises Damaged."""
        content = self._store.get(self.key(number))
        return None if content is None else self._decoded(number, content)

    def _decoded(self, number: int, content: bytes) -> tuple[Segment, Rows]:
        try:
            segment, rows = decode_segment(content)
        except ValueError as error:
            raise self._damaged(number, str(error)) from error
        if (segment.log_id, segment.number) != (self.log_id, number):
            raise self._damaged(number, f"it is segment {segment.number} of the log {segment.log_id}")
        return segment, rows

    def create(self, number: int, content: bytes) -> bool:
        """Whether the segment was made; False where somebody else was first."""
        return self._store.create(self.key(number), content)

    def replace(self, number: int, content: bytes) -> None:
        self._store.replace(self.key(number), content)

    def count(self) -> int:
        """How many segments there are; found by halving, for they are dense."""
        if not self.has(1):
            return 0
        high = 2
        while self.has(high):
            high *= 2
        return self._halved(high // 2, high, self.has)

    def holding(self, position: int, *, count: int) -> int:
        """The number of the segment that holds a position, at most `count`. Raises Damaged."""

        def is_below(number: int) -> bool:
            return self._need(number)[0].upto < position

        return min(count, 1 + self._halved(0, count + 1, is_below))

    def parts(self) -> Iterator[tuple[Segment, Rows]]:
        """Every segment, each following on the one before. Raises Damaged, naming the first that does not."""
        before: Segment | None = None
        number = 1
        # Most are small and the store is far: what is asked for one after the other is waited for as often.
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="second copy") as threads:

            def ask(number: int) -> "Future[bytes | None]":
                return threads.submit(self._store.get, self.key(number))

            coming = deque(ask(ahead) for ahead in range(1, READ_AHEAD + 1))
            while (content := coming.popleft().result()) is not None:
                coming.append(ask(number + READ_AHEAD))
                found = self._decoded(number, content)
                segment, _ = found
                if (segment.after, segment.previous) != ((0, "") if before is None else (before.upto, before.digest)):
                    raise self._damaged(number, f"it does not follow on segment {number - 1}")
                yield found
                before, number = segment, number + 1
        # A number that is missing hides those behind it.
        if self.has(number + 1):
            raise self._damaged(number, "it is missing, and a later one is there")

    def _need(self, number: int) -> tuple[Segment, Rows]:
        found = self.read(number)
        if found is None:
            raise self._damaged(number, "it is missing")
        return found

    def _halved(self, low: int, high: int, is_below: Callable[[int], bool]) -> int:
        """The last number that is below, where `low` is and `high` is not."""
        while low + 1 < high:
            middle = (low + high) // 2
            if is_below(middle):
                low = middle
            else:
                high = middle
        return low

    def _damaged(self, number: int, what: str) -> Damaged:
        return Damaged(
            f"segment {number} of the second copy is damaged: {what}",
            hint=f"look at `{self.key(number)}` in the store; the log is whole where `runfold verify` says so",
        )


def copied_log(store: ObjectStore, log_id: str = "") -> SecondCopy:
    """The log of which a store has a copy; it must be named where there are several. Raises NotFound, BadRequest."""
    known = store.folders(PREFIX)
    if not known or (log_id and log_id not in known):
        raise NotFound(
            f"the store has no copy of {f'the log {log_id}' if log_id else 'a log'}",
            hint=f"it has {', '.join(known)}" if known else "name the store that RUNFOLD_BLOBS named",
        )
    if not log_id and len(known) > 1:
        raise BadRequest(f"the store has {len(known)} logs", hint=f"name one with --log-id: {', '.join(known)}")
    return SecondCopy(store, log_id or known[0])


class Comparison:
    """A folder's log beside its second copy; `segments` and `events` count what was compared."""

    def __init__(self, connection: sqlite3.Connection, copy: SecondCopy, *, is_mirror: bool) -> None:
        """`is_mirror`: the folder may be behind its log, so what the copy has beyond its head is not looked at."""
        self._connection = connection
        self._copy = copy
        self._is_mirror = is_mirror
        self.segments = 0
        self.events = 0
        self._lagging: dict[tuple[str, int], Fault] = {}
        """What the log has redacted and the copy still says."""
        self._told: set[tuple[str, int]] = set()
        """What the copy itself says is redacted."""

    def faults(self) -> Iterator[Fault]:
        """The first event that is not the same in both, or the first segment that does not hold; and what the copy
        says though it says that it is redacted."""
        try:
            for segment, rows in self._copy.parts():
                self.segments += 1
                found = self.difference(segment, rows)
                if found is not None:
                    yield found
                    return
            yield from (fault for key, fault in self._lagging.items() if key in self._told)
        except Damaged as error:
            yield Fault(kind="copy", message=error.message)

    def difference(self, segment: Segment, rows: Rows) -> Fault | None:
        head, trimmed_to = self._connection.execute("SELECT position, trimmed_to FROM head").fetchone()
        found = self._connection.execute(EVENTS_BETWEEN, (segment.after, segment.upto))
        ours = {row.position: row for row in whole_rows(found)}
        for row in rows:
            if row.position > head and self._is_mirror:
                return None
            self.events += 1
            own = ours.pop(row.position, None)
            if own is None:
                if row.position <= trimmed_to:
                    continue
                what = f"the log ends at {head}" if row.position > head else "the log does not have it"
                return _fault(segment, row, what)
            if own.digest is not None and row.digest is None:
                self._lagging[row.run_id, row.version] = _fault(
                    segment, row, "it is redacted, and the copy still has what it was"
                )
            if row.type == "event_redacted" and row.data is not None:
                self._told.add((row.run_id, msgspec.json.decode(row.data, type=EventRedacted).version))
            changed = [name for name in _COMPARED if getattr(own, name) != getattr(row, name)]
            if changed and not (set(changed) <= _MAY_GO and _may_lag(own, row)):
                return _fault(segment, row, f"its {changed[0]} is another in the log")
        if ours and segment.events == len(rows):
            position = min(ours)
            return _fault(segment, ours[position], "the copy does not have it")
        return None


def _may_lag(own: WholeRow, row: WholeRow) -> bool:
    """One of the two was redacted already, and the other is still what it was."""
    digests = {own.digest, row.digest} - {None}
    return len(digests) == 1


def _fault(segment: Segment, row: WholeRow, what: str) -> Fault:
    event = f"event {row.position}, version {row.version} of `{row.run_id}`"
    return Fault(
        kind="copy",
        message=f"{event}, in segment {segment.number} of the second copy: {what}",
        run_id=row.run_id,
        position=row.position,
    )

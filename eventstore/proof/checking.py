"""Nothing altered is served: an event that a process reads for the first time must be the one that was appended.

Its content must match its hash, its run must have no gap and end where the log remembers, and its position and time
must be those that an anchor has sealed. What this process has appended or checked before is not looked at again.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from eventstore.anchoring import ANCHORS_FILE, Anchor
from eventstore.blocks import AFTER, OF_RUN, VERSION_AT
from eventstore.columns import OF_ANOTHER_KIND, Columns, columns_at
from eventstore.damage import HINT, is_damage
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.mirrored import mirrored_log
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import Damaged

BLOCK = 4096  # Positions that are remembered together, a byte each.
BLOCKS_MAX = 4096  # 16 MiB; what is forgotten is checked again.
ANCHORS_KNOWN_MAX = 65_536
DAMAGED_KNOWN_MAX = 100
TAIL_BYTES = 64 * 1024  # Many times the last line of the anchors beside the log.
_EARLIER = f"SELECT {VERSION_AT} FROM events WHERE position = ?3 AND run_id = ?1"  # noqa: S608
"""The version of a run's last event up to a place, where another one is still kept."""
_REMEMBERED = (
    f"SELECT version, position <= ?2, CASE WHEN position > ?2 THEN (SELECT version FROM {OF_RUN} WHERE {AFTER}"  # noqa: S608
    " ORDER BY block, version LIMIT 1) END, position <= (SELECT trimmed_to FROM head)"
    " AND NOT EXISTS (SELECT 1 FROM events WHERE position = heads.position) FROM heads WHERE run_id = ?1"
)
"""Of a run read up to a place: its last version, whether that should have been read, the next version there is, and
whether it is trimmed."""
_begun: "WeakValueDictionary[tuple[Path, int, int], Checks]" = WeakValueDictionary()
_opening = threading.Lock()


def open_checked(data: Path, *, has_to_be_quick: bool = False) -> sqlite3.Connection:
    """A reader whose events are checked; one that has to be quick only sees that the log was not cut, and is unshared.

    Raises NotFound, BadRequest, Unavailable, Damaged where it was.
    """
    checks = checks_of(data)
    connection = open_reader(data, None if has_to_be_quick else checks, is_unshared=has_to_be_quick)
    if checks is not None:
        try:
            checks.check_begun(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def checks_of(data: Path) -> "Checks | None":
    """What this process knows of a folder's log; None where the log is a mirror, which is checked as it is filled."""
    if mirrored_log(data) is not None:
        return None
    with _opening:
        try:
            found = (data / LOG_FILE).stat()
        except FileNotFoundError:
            return Checks(data)
        # A restored log is another file.
        identity = (data.absolute(), found.st_dev, found.st_ino)
        checks = _begun.get(identity)
        if checks is None:
            checks = _begun[identity] = Checks(data)
        return checks


def get_ready() -> None:
    """Load now what the first check needs: whoever is the first to read from a server does not wait for it."""
    import_module("eventstore.proof.linking")


class Checks:
    """Which events are known to be true, shared by all readers of a log in this process; methods raise Damaged."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._blocks: OrderedDict[int, bytearray] = OrderedDict()
        self._anchors: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()
        self._is_begun = False
        self.damaged: dict[str | None, str] = {}
        """What was found so far, by run; None: of no run alone."""

    def trust(self, first: int, last: int) -> None:
        """These events were appended by this process."""
        with self._lock:
            self._mark_all(first, last)

    def knows(self, position: int) -> bool:
        return not self._unknown((position,))

    def check(self, connection: sqlite3.Connection, positions: Sequence[int], columns: Columns | None = None) -> None:
        """Check what is not known among events about to be served; `columns`: what was read of them already."""
        if [*positions] != sorted(positions):
            raise self._found(
                None, f"the events at {positions[0]} to {positions[-1]} are not in the order of their run"
            )
        unknown = self._unknown(positions)
        if unknown:
            try:
                if columns is None or columns.salts is None:
                    columns = columns_at(connection, unknown)
                # Here and not at the top: who finds nothing new to check does not wait for OpenSSL to load.
                from eventstore.proof.linking import unsound

                for wrong in () if columns is None else unsound(connection, columns):
                    raise self._found(*wrong)
                self._check_anchors(connection, unknown)
            except (sqlite3.DatabaseError, *OF_ANOTHER_KIND) as error:
                if isinstance(error, sqlite3.DatabaseError) and not is_damage(error):
                    raise
                raise self._found(
                    None, f"an event from {unknown[0]} to {unknown[-1]} cannot be read: {error}"
                ) from error
            with self._lock:
                self._mark(unknown)

    def check_whole(self, connection: sqlite3.Connection, positions: Sequence[int], after: int, end: int) -> None:
        """A page of all runs: above the trimmed start no position is missing between `after` and `end`."""
        row = connection.execute("SELECT trimmed_to FROM head").fetchone()
        expected = max(after, row[0]) + 1
        if positions and positions[-1] - positions[0] + 1 == len(positions) and positions[0] <= expected:
            expected = max(expected, positions[-1] + 1)
        else:
            for position in positions:
                if position > expected and not (position == expected + 1 and _is_closing_at(connection, position)):
                    raise self._found(None, f"event {expected} of the log is missing")
                expected = max(expected, position + 1)
        if expected <= end:
            raise self._found(None, f"event {expected} of the log is missing")

    def check_versions(
        self, connection: sqlite3.Connection, stream: str, positions: Sequence[int], version: int, after: int
    ) -> None:
        """A page of a run: its events up to the last one's version are all that follow on a place."""
        row = connection.execute(_EARLIER, (stream, after, positions[-1])).fetchone()
        # Of a run that was trimmed since, there is none.
        if row is not None and row[0] + len(positions) != version:
            raise self._found(stream, f"version {row[0] + 1} of `{stream}` is missing before event {positions[-1]}")

    def check_end(self, connection: sqlite3.Connection, stream: str, version: int, end: int) -> None:
        """A run read up to `end`, a position of the log: the next event is the next, or its last the one remembered."""
        row = connection.execute(_REMEMBERED, (stream, end)).fetchone()
        if row is None:
            if version:
                raise self._found(stream, f"the log does not remember the last event of `{stream}`")
            return
        remembered, is_read, following, is_trimmed = row
        if is_read and remembered != version and not (is_trimmed and not version):
            raise self._found(stream, f"`{stream}` ends at version {version}, the log remembers {remembered}")
        if not is_read and following != version + 1 and not (is_trimmed and following is None):
            raise self._found(stream, f"version {version + 1} of `{stream}` is missing")

    def check_begun(self, connection: sqlite3.Connection) -> None:
        """Once a process: the log reaches to the last anchor beside it, and holds it."""
        if self._is_begun:
            return
        anchor = _last_beside(self._data / ANCHORS_FILE)
        if anchor is not None:
            head = connection.execute("SELECT position FROM head").fetchone()[0]
            if anchor.position > head:
                raise self._cut(f"the log ends at {head}, and an anchor beside it was made at {anchor.position}")
            row = connection.execute("SELECT digest FROM anchors WHERE position = ?", (anchor.position,)).fetchone()
            if row is None or row[0].hex() != anchor.digest:
                raise self._cut(f"the log is not the one that the anchor beside it at {anchor.position} was made of")
        self._is_begun = True

    def _unknown(self, positions: Sequence[int]) -> list[int]:
        if not positions:
            return []
        with self._lock:
            first, last = positions[0], positions[-1]
            block = self._blocks.get(first // BLOCK)
            is_dense = last - first + 1 == len(positions) and last // BLOCK == first // BLOCK
            if block is not None and is_dense and block.find(0, first % BLOCK, last % BLOCK + 1) < 0:
                return []
            nothing = bytes(BLOCK)
            return [it for it in positions if not self._blocks.get(it // BLOCK, nothing)[it % BLOCK]]

    def _mark(self, positions: Sequence[int]) -> None:
        if positions[-1] - positions[0] + 1 == len(positions):
            self._mark_all(positions[0], positions[-1])
            return
        for position in positions:
            self._block(position // BLOCK)[position % BLOCK] = 1

    def _mark_all(self, first: int, last: int) -> None:
        while first <= last:
            end = min(last, first | (BLOCK - 1))
            size = end - first + 1
            self._block(first // BLOCK)[first % BLOCK : first % BLOCK + size] = b"\1" * size
            first = end + 1

    def _block(self, number: int) -> bytearray:
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = bytearray(BLOCK)
            if len(self._blocks) > BLOCKS_MAX:
                self._blocks.popitem(last=False)
        return block

    def _check_anchors(self, connection: sqlite3.Connection, positions: list[int]) -> None:
        """Positions and times are sealed by the next anchor, where one was made since."""
        from eventstore.proof.linking import anchor_of

        trimmed_to = connection.execute("SELECT trimmed_to FROM head").fetchone()[0]
        sealed = 0
        for position in positions:
            if position <= sealed:
                continue
            query = "SELECT position, digest, previous FROM anchors WHERE position >= ? ORDER BY position LIMIT 1"
            row = connection.execute(query, (position,)).fetchone()
            if row is None:
                return
            sealed, digest, previous = row
            if sealed in self._anchors:
                continue
            query = "SELECT position, digest FROM anchors WHERE position < ? ORDER BY position DESC LIMIT 1"
            start, earlier = connection.execute(query, (sealed,)).fetchone() or (0, b"")
            if start < trimmed_to:
                continue
            if previous != earlier or anchor_of(connection, earlier, start, sealed) != digest:
                raise self._found(None, f"events {start + 1} to {sealed} are not those of the anchor at {sealed}")
            with self._lock:
                self._anchors[sealed] = None
                if len(self._anchors) > ANCHORS_KNOWN_MAX:
                    self._anchors.popitem(last=False)

    def _found(self, run_id: str | None, message: str) -> Damaged:
        if len(self.damaged) < DAMAGED_KNOWN_MAX:
            self.damaged.setdefault(run_id, message)
        return Damaged(message, hint=HINT, run_id=run_id)

    def _cut(self, message: str) -> Damaged:
        self._found(None, message)
        hint = f"restore a backup; or, if this log is an older copy on purpose, move `{ANCHORS_FILE}` away"
        return Damaged(message, hint=hint)


def _last_beside(path: Path) -> Anchor | None:
    """The last whole line of the anchors beside a log; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        return msgspec.json.decode(lines[-1], type=Anchor) if lines else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_closing_at(connection: sqlite3.Connection, position: int) -> bool:
    """Whether the event sums up a run whose very last event stood before it, see `verifying.is_closing`."""
    query = (
        "SELECT coalesce(json_extract(CAST(data AS TEXT), '$.counts.closed'), 0) FROM events"
        " WHERE position = ? AND run_id = ? AND type = 'run_archived'"
    )
    row = connection.execute(query, (position, SYSTEM_STREAM)).fetchone()
    return row is not None and bool(row[0])

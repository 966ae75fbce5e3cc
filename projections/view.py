"""What a view is: a name, a revision, its tables, and a fold that gathers a page in memory and then writes it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, Recorded
from runfold.errors import InvalidEvent
from runfold.events import Event, Unknown
from runfold.state import Run, new_run

CACHED_RUNS_MAX = 4_096  # More than the runs that one page can touch, few enough for some tens of megabytes.
Decoded: TypeAlias = Event | Unknown | None
"""What happened; None where the data was redacted or cannot be read any more, or where no view reads it."""

encode_run = msgspec.json.Encoder().encode
decode_run = msgspec.json.Decoder(Run).decode


class Fold(Protocol):
    """One process's folded state of one view: it belongs to the checkpoint that this process wrote last."""

    def apply(self, connection: sqlite3.Connection, recorded: Recorded, event: Decoded) -> None:
        """Fold one event in memory. Where it raises, the event has left no trace."""
        ...

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the rows that `apply` changed since the last `write`, inside the caller's transaction."""
        ...

    def forget(self) -> None:
        """Drop everything in memory: the rows on disk are not the ones it was folded from."""
        ...


def every_type(_: str) -> bool:
    return True


class View(msgspec.Struct, frozen=True, kw_only=True):
    """`revision` goes up with every change of the tables or of what the fold makes of an event."""

    name: str
    revision: int
    tables: tuple[str, ...]
    ddl: tuple[str, ...]
    make_fold: Callable[[], Fold]
    wants: Callable[[str], bool] = every_type
    """Whether the fold takes events of this type: of the others it does not even hear."""
    reads: Callable[[str], bool] = every_type
    """Whether it looks into their data: what nobody looks into is not decoded."""
    system: bool = False
    """Whether it takes the events of the system stream too."""
    sums: bool = False
    """Whether rows are sums over runs, of what neither a redaction nor a trim takes away: runs are not folded anew."""
    drop: Callable[[sqlite3.Connection, str], None] | None = None
    """Takes out the rows of one run; needed where a table has no `run_id`."""

    def drop_run(self, connection: sqlite3.Connection, run_id: str) -> None:
        if self.drop is not None:
            self.drop(connection, run_id)
            return
        for table in self.tables:
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))  # noqa: S608

    @property
    def fingerprint(self) -> str:
        """What made the rows, word for word: a digest of it would cost every reading command the loading of OpenSSL."""
        return "\n".join((f"{self.name} {self.revision}", *self.ddl))


class Parked(msgspec.Struct, frozen=True):
    """A fold refused an event: its view stands after `last`, and None is where it stood before the page."""

    last: Recorded | None
    error: str


def fold_page(
    connection: sqlite3.Connection,
    folds: Mapping[str, tuple[View, Fold]],
    events: Iterable[Recorded],
    *,
    is_skipped: Callable[[str, int], bool],
) -> dict[str, Parked]:
    """Give every event to the folds that want it, decoded once for all; the answer names those that broke.

    An event that a fold refuses is left out where a person let this view leave out that position.
    """
    parked: dict[str, Parked] = {}
    takers: dict[tuple[str, bool], tuple[list[tuple[str, Fold]], bool]] = {}
    last: Recorded | None = None
    for recorded in events:
        kind = (recorded.type, recorded.run_id == SYSTEM_STREAM)
        known = takers.get(kind)
        if known is None:
            known = takers[kind] = _takers(folds, *kind)
        wanted, is_read = known
        if wanted:
            event: Decoded = None
            if is_read:
                try:
                    event = recorded.event()
                except InvalidEvent:
                    event = None
            for name, fold in wanted:
                if name in parked:
                    continue
                try:
                    fold.apply(connection, recorded, event)
                except sqlite3.Error:
                    raise
                except Exception as error:  # Whatever a fold raises stops its own view only.
                    if is_skipped(name, recorded.position):
                        continue
                    text = f"event {recorded.position} of `{recorded.run_id}`: {type(error).__name__}: {error}"
                    parked[name] = Parked(last, text)
        last = recorded
    return parked


def _takers(
    folds: Mapping[str, tuple[View, Fold]], type_name: str, is_system: bool
) -> tuple[list[tuple[str, Fold]], bool]:
    wanted = [(view, fold) for view, fold in folds.values() if view.wants(type_name) and (view.system or not is_system)]
    return [(view.name, fold) for view, fold in wanted], any(view.reads(type_name) for view, _ in wanted)


class RunCache:
    """Runs folded lately, with the position of their last event; the others are loaded from the view's own rows."""

    def __init__(self, load: str, *, runs_max: int = CACHED_RUNS_MAX) -> None:
        """`load` is the SELECT of (body, position) of one run."""
        self._load = load
        self._runs_max = runs_max
        self._runs: OrderedDict[str, tuple[Run, int]] = OrderedDict()
        self._changed: dict[str, None] = {}

    def get(self, connection: sqlite3.Connection, recorded: Recorded) -> Run:
        """The run as it was before this event."""
        known = self._runs.get(recorded.run_id)
        if known is not None:
            self._runs.move_to_end(recorded.run_id)
            return known[0]
        row = connection.execute(self._load, (recorded.run_id,)).fetchone()
        return new_run(recorded.run_id, recorded.tenant) if row is None else decode_run(row[0])

    def put(self, run: Run, position: int) -> None:
        self._runs[run.run_id] = (run, position)
        self._changed[run.run_id] = None

    def changed(self) -> Iterator[tuple[Run, int]]:
        for run_id in self._changed:
            yield self._runs[run_id]

    def settle(self) -> None:
        """What changed is written: it may be forgotten now, the oldest use first."""
        self._changed.clear()
        while len(self._runs) > self._runs_max:
            self._runs.popitem(last=False)

    def clear(self) -> None:
        self._runs.clear()
        self._changed.clear()

"""What a view is: a name, a revision, its tables, and a fold that gathers a page in memory and then writes it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.errors import InvalidEvent
from runfold.events import DATA_ERRORS, Event, Unknown, decoder_of
from runfold.state import Run, new_run

CACHED_RUNS_MAX = 4_096  # More than the runs that one page can touch, few enough for some tens of megabytes.
_INDEX = "CREATE INDEX "
Decoded: TypeAlias = Event | Unknown | None
"""What happened; None where the data was redacted or cannot be read any more, or where no view reads it."""

encode_run = msgspec.json.Encoder().encode
decode_run = msgspec.json.Decoder(Run).decode


class Fold(Protocol):
    """One process's folded state of one view: it belongs to the checkpoint that this process wrote last."""

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
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
    def indexes(self) -> tuple[str, ...]:
        """What of the DDL a rebuild makes last: sorting all rows once is quicker than finding a place for each."""
        return tuple(statement for statement in self.ddl if statement.startswith(_INDEX))

    @property
    def fingerprint(self) -> str:
        """What made the rows, word for word: a digest of it would cost every reading command the loading of OpenSSL."""
        return "\n".join((f"{self.name} {self.revision}", *self.ddl))


class Parked(msgspec.Struct, frozen=True):
    """A fold refused an event: its view stands after position `last`, and None is where it stood before the page."""

    last: int | None
    error: str


def fold_page(
    connection: sqlite3.Connection,
    folds: Mapping[str, tuple[View, Fold]],
    facts: Iterable[Fact],
    *,
    is_skipped: Callable[[str, int], bool],
) -> dict[str, Parked]:
    """Give every event to the folds that want it, decoded once for all; the answer names those that broke.

    An event that a fold refuses is left out where a person let this view leave out that position.
    """
    parked: dict[str, Parked] = {}
    # By type; of runs, and of the system stream.
    takers: tuple[dict[str, _Takers], dict[str, _Takers]] = ({}, {})
    last: int | None = None
    for fact in facts:
        is_system = fact.run_id == SYSTEM_STREAM
        known = takers[is_system].get(fact.type)
        if known is None:
            known = takers[is_system][fact.type] = _takers(folds, fact.type, is_system=is_system)
        applies, decode = known
        event: Decoded = None
        if decode is not None and fact.data is not None:
            try:
                event = decode(fact.data)
            except DATA_ERRORS:
                event = _shortened(fact)
        for name, apply in applies:
            if parked and name in parked:
                continue
            try:
                apply(connection, fact, event)
            except sqlite3.Error:
                raise
            except Exception as error:  # Whatever a fold raises stops its own view only.
                if is_skipped(name, fact.position):
                    continue
                text = f"event {fact.position} of `{fact.run_id}`: {type(error).__name__}: {error}"
                parked[name] = Parked(last, text)
        last = fact.position
    return parked


_Takers: TypeAlias = tuple[
    list[tuple[str, Callable[[sqlite3.Connection, Fact, Decoded], None]]], Callable[[bytes], Event | Unknown] | None
]
"""Who takes a type of event, and how its data is read where one of them does."""


def _takers(folds: Mapping[str, tuple[View, Fold]], type_name: str, *, is_system: bool) -> _Takers:
    wanted = [(view, fold) for view, fold in folds.values() if view.wants(type_name) and (view.system or not is_system)]
    is_read = any(view.reads(type_name) for view, _ in wanted)
    return [(view.name, fold.apply) for view, fold in wanted], decoder_of(type_name) if is_read else None


def _shortened(fact: Fact) -> Decoded:
    """Data that is not as its type has it: the beginning of a text stored apart, or nothing that can be read."""
    try:
        return fact.event()
    except InvalidEvent:
        return None


class RunCache:
    """Runs folded lately, with the position of their last event; the others are loaded from the view's own rows."""

    def __init__(self, load: str, *, runs_max: int = CACHED_RUNS_MAX) -> None:
        """`load` is the SELECT of (body, position) of one run."""
        self._load = load
        self._runs_max = runs_max
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._changed: dict[str, int] = {}

    def get(self, connection: sqlite3.Connection, fact: Fact) -> Run:
        """The run as it was before this event; nobody else holds it."""
        known = self._runs.get(fact.run_id)
        if known is not None:
            return known
        row = connection.execute(self._load, (fact.run_id,)).fetchone()
        return new_run(fact.run_id, fact.tenant) if row is None else decode_run(row[0])

    def put(self, run: Run, position: int) -> None:
        self._runs[run.run_id] = run
        self._changed[run.run_id] = position

    def changed(self) -> Iterator[tuple[Run, int]]:
        for run_id, position in self._changed.items():
            yield self._runs[run_id], position

    def settle(self) -> None:
        """What changed is written: it may be forgotten now, the oldest use first."""
        for run_id in self._changed:
            self._runs.move_to_end(run_id)
        self._changed.clear()
        while len(self._runs) > self._runs_max:
            self._runs.popitem(last=False)

    def clear(self) -> None:
        self._runs.clear()
        self._changed.clear()

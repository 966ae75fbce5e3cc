"""What a view is: a name, a revision, its tables, and a fold that gathers a page in memory and then writes it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Fact
from runfold.events import Event, Unknown
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
    causes: bool = False
    """Whether it looks at what made an event: its cause, its command."""
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


class RunCache:
    """Runs folded lately, with the position of their last event; the others are loaded from the view's own rows."""

    def __init__(self, load: str, *, runs_max: int = CACHED_RUNS_MAX) -> None:
        """`load` is the SELECT of (body, position) of one run."""
        self._load = load
        self._runs_max = runs_max
        self._held: OrderedDict[str, Run] = OrderedDict()
        self._changed: dict[str, int] = {}
        """Run → position of its last event, of those that changed since the last `settle`."""

    def get(self, connection: sqlite3.Connection, fact: Fact) -> Run:
        """The run as it was before this event; nobody else holds it."""
        known = self._held.get(fact.run_id)
        if known is not None:
            return known
        row = connection.execute(self._load, (fact.run_id,)).fetchone()
        return new_run(fact.run_id, fact.tenant) if row is None else decode_run(row[0])

    def put(self, run: Run, position: int) -> None:
        self._held[run.run_id] = run
        self._changed[run.run_id] = position

    def written(self) -> Iterator[tuple[Run, int]]:
        """What is to be written: what changed, with the position of its last event."""
        for run_id, position in self._changed.items():
            yield self._held[run_id], position

    def settle(self) -> None:
        """What changed is written: it may be forgotten now, the oldest use first."""
        for run_id in self._changed:
            self._held.move_to_end(run_id)
        self._changed.clear()
        while len(self._held) > self._runs_max:
            self._held.popitem(last=False)

    def clear(self) -> None:
        self._held.clear()
        self._changed.clear()

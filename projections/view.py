"""What a view is: a name, a revision, its tables, and a fold that gathers a page in memory and then writes it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded
from runfold.state import Run, new_run

CACHED_RUNS_MAX = 4_096  # More than the 500 runs that one page can touch, few enough for some tens of megabytes.

encode_run = msgspec.json.Encoder().encode
decode_run = msgspec.json.Decoder(Run).decode


class Fold(Protocol):
    """One process's folded state of one view: it belongs to the checkpoint that this process wrote last."""

    def apply(self, connection: sqlite3.Connection, recorded: Recorded) -> None:
        """Fold one event in memory. Where it raises, the event has left no trace."""
        ...

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the rows that `apply` changed since the last `write`, inside the caller's transaction."""
        ...

    def forget(self) -> None:
        """Drop everything in memory: the rows on disk are not the ones it was folded from."""
        ...


class View(msgspec.Struct, frozen=True, kw_only=True):
    """`revision` goes up with every change of the tables or of what the fold makes of an event."""

    name: str
    revision: int
    tables: tuple[str, ...]
    ddl: tuple[str, ...]
    make_fold: Callable[[], Fold]

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

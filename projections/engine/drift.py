"""The proof of the views: each is folded anew to where it stands, and compared with what is served, row by row."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from eventstore.facts import read_facts
from eventstore.proof.faults import OF_ANOTHER_KIND, Fault
from eventstore.reading import bounds
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.engine.checkpoints import Checkpoint, read_checkpoints
from projections.engine.folding import Folding
from projections.engine.skips import Skips
from projections.engine.view import View
from projections.engine.views import Views
from runfold.errors import Damaged, InvalidEvent, RunfoldError

FAULTS_MAX = 20  # Of one table: whoever sees as many rebuilds.
Progress = Callable[[str, int, int], None]


class Drift:
    """`rows` counts what was compared."""

    def __init__(
        self, log: sqlite3.Connection, data: Path, *, views: tuple[View, ...] = VIEWS, is_caught_up: bool = True
    ) -> None:
        """`is_caught_up`: fold what the log has beyond the views first, as a reader would."""
        self._log = log
        self._data = data
        self._views = views
        self._is_caught_up = is_caught_up
        self.rows = 0

    def faults(self, *, on_progress: Progress | None = None) -> Iterator[Fault]:
        """Views that are parked, of another making, or hold a row that a fold of the log does not give."""
        with tempfile.TemporaryDirectory(prefix="runfold-verify-") as folder:
            copy = Path(folder) / "live.db"
            checkpoints = self._copy(copy)
            for view in self._views:
                checkpoint, head = checkpoints.get(view.name, Checkpoint()), bounds(self._log).last
                if checkpoint.status == "parked":
                    yield Fault(kind="view", message=f"view `{view.name}` is parked: {checkpoint.error}")
                if checkpoint.fingerprint != view.fingerprint:
                    yield Fault(
                        kind="view",
                        message=f"view `{view.name}` was made by another runfold; `runfold rebuild` makes it anew",
                    )
                elif checkpoint.position > head:
                    message = f"view `{view.name}` has folded event {checkpoint.position}; the log ends at {head}"
                    yield Fault(kind="view", message=message, position=head + 1)
                else:
                    yield from self._compare(view, checkpoint, copy, on_progress)

    def _copy(self, path: Path) -> dict[str, Checkpoint]:
        """The views as they are at one moment, so that comparing holds nobody up."""
        views = Views.open(self._data, views=self._views)
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            if self._is_caught_up:
                # A log that does not hold is told by its own proof; the views are compared as they stand.
                with suppress(Damaged):
                    views.refresh()
            views.connection.backup(copy)
            return read_checkpoints(copy)
        finally:
            copy.close()
            views.close()

    def _compare(self, view: View, checkpoint: Checkpoint, copy: Path, on_progress: Progress | None) -> Iterator[Fault]:
        # A nameless file: in memory while it is small, beyond that on the disk.
        fresh = sqlite3.connect("", isolation_level=None)
        try:
            self._fold(view, checkpoint.position, fresh, on_progress)
            fresh.execute("ATTACH DATABASE ? AS live", (str(copy),))
            is_first = True
            for table in view.tables:
                self.rows += fresh.execute(f"SELECT count(*) FROM live.{table}").fetchone()[0]  # noqa: S608
                for found in _differences(fresh, table):
                    # One of a view is looked into: its run is folded once more, event by event.
                    since = self._since(view, table, found, checkpoint.position) if is_first else None
                    is_first = False
                    yield _fault(view, table, found, since)
        except sqlite3.DatabaseError as error:
            yield Fault(kind="view", message=f"the rows of view `{view.name}` cannot be read: {error}")
        except (RunfoldError, *OF_ANOTHER_KIND) as error:
            yield Fault(kind="view", message=f"view `{view.name}` cannot be folded anew: {error}")
        finally:
            fresh.close()

    def _since(self, view: View, table: str, found: "_Difference", upto: int) -> int | None:
        """The event from which on the row differs: the one after the last at which its run's history gave it."""
        run_id = found.row.get("run_id")
        if not isinstance(run_id, str):
            return None
        alone = sqlite3.connect("", isolation_level=None)
        try:
            for statement in view.ddl:
                alone.execute(statement)
            fold, after, since, is_given = view.make_fold(), 0, None, found.served is None
            folding = Folding(alone, {view.name: (view, fold)}, is_skipped=Skips(self._log).holds)
            where = " AND ".join(f"{column} IS ?" for column in found.key)
            while facts := read_facts(self._log, after=after, stream=run_id, upto=upto)[0]:
                for fact in facts:
                    folding.fold((fact,), after=after)
                    after = fact.position
                    fold.write(alone)
                    rows = alone.execute(f"SELECT * FROM {table} WHERE {where} LIMIT 1", [*found.key.values()])  # noqa: S608
                    row = next((dict(zip(found.row, values, strict=True)) for values in rows), None)
                    was_given, is_given = is_given, found.is_given_by(row)
                    if not is_given and (was_given or since is None):
                        since = after
            return None if is_given else since
        except (sqlite3.DatabaseError, RunfoldError, *OF_ANOTHER_KIND):
            return None  # What of the run cannot be read is told by the proof of the log.
        finally:
            alone.close()

    def _fold(self, view: View, upto: int, fresh: sqlite3.Connection, on_progress: Progress | None) -> None:
        for statement in view.ddl:
            fresh.execute(statement)
        fold, after = view.make_fold(), 0
        folding = Folding(fresh, {view.name: (view, fold)}, is_skipped=Skips(self._log).holds)
        while after < upto:
            facts, reached = read_facts(self._log, after=after, upto=upto, kept=True)
            fresh.execute("BEGIN")
            folding.fold(facts, after=after)
            fold.write(fresh)
            fresh.execute("COMMIT")
            if folding.parked:
                raise InvalidEvent(folding.parked[view.name].error)
            after = reached
            if on_progress is not None:
                on_progress(view.name, after, upto)


class _Difference(msgspec.Struct, frozen=True):
    """A row as it is served and as its history gives it; None where there is none."""

    key: dict[str, Any]
    served: dict[str, Any] | None
    folded: dict[str, Any] | None

    @property
    def row(self) -> dict[str, Any]:
        return self.folded or self.served or {}

    @property
    def changed(self) -> list[str]:
        if self.served is None or self.folded is None:
            return []
        return [column for column, value in self.served.items() if self.folded[column] != value]

    def is_given_by(self, row: dict[str, Any] | None) -> bool:
        """Whether a history that gives this row gives what is served, in what differs."""
        if self.served is None or row is None:
            return self.served is None and row is None
        return all(row[column] == self.served[column] for column in self.changed)


def _differences(fresh: sqlite3.Connection, table: str) -> Iterator[_Difference]:
    columns = [row[1] for row in fresh.execute(f"PRAGMA table_info({table})")]
    keys = [row[1] for row in fresh.execute(f"PRAGMA table_info({table})") if row[5]] or columns
    served, folded = (
        {tuple(row[columns.index(key)] for key in keys): dict(zip(columns, row, strict=True)) for row in rows}
        for rows in (
            fresh.execute(f"SELECT * FROM live.{table} EXCEPT SELECT * FROM main.{table} LIMIT {FAULTS_MAX}"),  # noqa: S608
            fresh.execute(f"SELECT * FROM main.{table} EXCEPT SELECT * FROM live.{table} LIMIT {FAULTS_MAX}"),  # noqa: S608
        )
    )
    for key in sorted(served.keys() | folded.keys(), key=repr):
        yield _Difference(dict(zip(keys, key, strict=True)), served.get(key), folded.get(key))


def _fault(view: View, table: str, found: _Difference, since: int | None) -> Fault:
    name = f"row {', '.join(map(str, found.key.values()))} of `{table}`"
    if found.served is None:
        message = f"{name} is missing"
    elif found.folded is None:
        message = f"{name} is in no history"
    else:
        message = f"{name} differs from its history in {', '.join(found.changed)}"
    return Fault(
        kind="view",
        message=f"view `{view.name}`: {message}" + (f", from event {since} on" if since else ""),
        run_id=found.row.get("run_id"),
        position=since or found.row.get("position"),
    )

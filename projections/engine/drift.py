"""The proof of the views: each is folded anew to where it stands, and compared with what is served, row by row."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

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
            for table in view.tables:
                self.rows += fresh.execute(f"SELECT count(*) FROM live.{table}").fetchone()[0]  # noqa: S608
                yield from _differences(fresh, view, table)
        except sqlite3.DatabaseError as error:
            yield Fault(kind="view", message=f"the rows of view `{view.name}` cannot be read: {error}")
        except (RunfoldError, *OF_ANOTHER_KIND) as error:
            yield Fault(kind="view", message=f"view `{view.name}` cannot be folded anew: {error}")
        finally:
            fresh.close()

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


def _differences(fresh: sqlite3.Connection, view: View, table: str) -> Iterator[Fault]:
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
        row = folded.get(key) or served[key]
        name = f"row {', '.join(map(str, key))} of `{table}`"
        if key not in served:
            message = f"{name} is missing"
        elif key not in folded:
            message = f"{name} is in no history"
        else:
            changed = [column for column in columns if served[key][column] != folded[key][column]]
            message = f"{name} differs from its history in {', '.join(changed)}"
        yield Fault(
            kind="view",
            message=f"view `{view.name}`: {message}",
            run_id=row.get("run_id"),
            position=row.get("position"),
        )

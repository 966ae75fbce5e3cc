"""Catching up with the log: the folds of some views, and the open file that they write.

Rows and checkpoint are written in one transaction, so a process that dies leaves views that are old, never wrong.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import msgspec

from eventstore.contract import PAGE_EVENTS
from eventstore.damage import is_passing
from eventstore.facts import read_facts, some_facts
from eventstore.log_file import LOG_FILE
from eventstore.proof.checking import open_checked
from eventstore.reading import hash_at
from eventstore.sqlite3_module import sqlite3
from projections.engine.checkpoints import (
    CHECKPOINT_COLUMNS,
    CHECKPOINTS_DDL,
    Checkpoint,
    bounds_of,
    foreign_places,
    read_checkpoints,
)
from projections.engine.folding import Folding, Parked
from projections.engine.opening import Folded, connect_to_build, sorting
from projections.engine.remains import mark_remains
from projections.engine.rewritten import pages_before, rewritten_runs
from projections.engine.skips import Skips
from projections.engine.view import Fold, View
from runfold.envelope import Fact
from runfold.errors import NotFound
from runfold.events import EVENT_TYPES, REWRITES

ERROR_CHARS_MAX = 500


class ForeignViews(sqlite3.DatabaseError):
    """The file is a database, but not one of ours; it never leaves this package."""


class NotWritten(sqlite3.OperationalError):
    """What is on the disk stays as it is, and who catches up serves it as stale."""


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the views have read the log; `stale` when that is not its head.

    `parked` views stay behind an event that their fold refuses. `behind` is how many positions of the log the others
    have still to fold.
    """

    position: int
    stale: bool
    parked: tuple[str, ...] = ()
    behind: int = 0


class Projector:
    """Folds a log into one file of views, in one thread; whoever catches up is the one process that may."""

    def __init__(
        self, data: Path, views: tuple[View, ...], page_events: int = PAGE_EVENTS, *, is_building: bool = False
    ) -> None:
        """`is_building`: a generation that nobody reads yet, without indexes until `make_indexes`."""
        self._data = data
        self._views = views
        self._page_events = page_events
        self._is_building = is_building
        self._lacks_indexes = is_building
        self._clean_to: int | None = None if is_building else 0
        """Up to here nothing is folded that is redacted later: what a building begins with is as it is left."""
        self._is_from_start = False
        """Whether a building has folded all of its rows since it was opened."""
        self._unwanted: tuple[str, ...] = ()
        """Types of events that need not be read, as no view takes them."""
        if is_building:
            others = EVENT_TYPES.keys() - REWRITES
            self._unwanted = tuple(sorted(name for name in others if not any(view.wants(name) for view in views)))
        self._folds: dict[str, Fold] = {}  # Made by the first event: a process that only reads has none.
        self._written: dict[str, tuple[str, int, bytes]] = {}
        self._log: sqlite3.Connection | None = None
        self._skips: Skips | None = None
        self._log_identity: tuple[int, int] | None = None
        self._connection: Folded | None = None

    @property
    def connection(self) -> Folded:
        """The open file."""
        assert self._connection is not None  # noqa: S101
        return self._connection

    def use(self, connection: Folded) -> None:
        """Go on with this file, whatever was open before."""
        self.leave()
        self._connection = connection
        connection.log = self._log

    def build(self, path: Path) -> None:
        """Open a file that nobody reads yet, with its tables."""
        self.use(connect_to_build(path))
        if not self.is_prepared():
            self.prepare()

    def leave(self) -> None:
        """Close the file, and forget what was folded from it."""
        for view in self._views:
            self._forget(view)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self.close_log()
        self.leave()

    def freshness(self, log: sqlite3.Connection | None, target: int) -> Freshness:
        checkpoints = self.checkpoints()
        # After the checkpoints: a head read before them may be older than what another process has folded.
        head = bounds_of(log)
        known = [checkpoints.get(view.name, Checkpoint()) for view in self._views]
        strange = foreign_places(log, head, known)
        # Where each of those stands that go on: rows of another log are folded anew.
        moving = [
            0 if checkpoint.place in strange else checkpoint.position
            for view, checkpoint in zip(self._views, known, strict=True)
            if checkpoint.fingerprint == view.fingerprint and checkpoint.status == "live"
        ]
        behind = max(0, target - min(moving, default=target))
        return Freshness(
            position=min(checkpoint.position for checkpoint in known),
            stale=bool(behind or strange) or len(moving) < len(known),
            parked=tuple(name for name, checkpoint in checkpoints.items() if checkpoint.status == "parked"),
            behind=behind,
        )

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Where each view stands; a parked one says why."""
        return read_checkpoints(self.connection)

    def catch_up(
        self, log: sqlite3.Connection | None, target: int, *, on_page: Callable[[int], object] | None = None
    ) -> None:
        """Fold up to a position of the log, as the one process that may; `on_page` hears how far it has come."""
        if self._clean_to is None:
            self._clean_to = bounds_of(log).last
            self._is_from_start = not any(checkpoint.position for checkpoint in self.checkpoints().values())
        while True:
            checkpoints = self.checkpoints()
            head = bounds_of(log)
            ours = [view for view in self._views if checkpoints[view.name].fingerprint == view.fingerprint]
            strange = foreign_places(log, head, [checkpoints[view.name] for view in ours])
            foreign = [view for view in ours if checkpoints[view.name].place in strange]
            if foreign:
                self._discard(foreign)
                continue
            freed = [view for view in ours if log is not None and self._is_freed(log, view, checkpoints[view.name])]
            if freed:
                self._free(freed, checkpoints)
                continue
            moving = [
                view
                for view in ours
                if checkpoints[view.name].status == "live" and checkpoints[view.name].position < target
            ]
            if log is None or not moving:
                return
            # Views at the same place share the page; those further on join when the others have reached them.
            start = min(checkpoints[view.name].position for view in moving)
            together = [view for view in moving if checkpoints[view.name].position == start]
            ahead = [checkpoints[view.name].position for view in moving if checkpoints[view.name].position > start]
            upto = min([*ahead, target, head.last])
            reached = self._fold(together, checkpoints, log, (start, upto), head.log_id)
            if reached == start:
                return
            if on_page is not None:
                on_page(reached)

    def _is_freed(self, log: sqlite3.Connection, view: View, checkpoint: Checkpoint) -> bool:
        """Whether somebody let a parked view leave out the event that it stands before."""
        if checkpoint.status != "parked":
            return False
        following, _ = read_facts(log, after=checkpoint.position, limit=1, kept=True)
        return bool(following) and self._is_skipped(view.name, following[0].position)

    def _is_skipped(self, view: str, position: int) -> bool:
        return self._skips is not None and self._skips.holds(view, position)

    def _free(self, views: list[View], before: dict[str, Checkpoint]) -> None:
        with self.transaction():
            now = self.checkpoints()
            for view in views:
                if now[view.name] == before[view.name]:
                    self._write_checkpoint(view, _checkpoint(view, now[view.name].place))

    def _fold(
        self,
        views: list[View],
        before: dict[str, Checkpoint],
        log: sqlite3.Connection,
        stretch: tuple[int, int],
        log_id: str,
    ) -> int:
        """Fold the events after one position up to another, or as many as one transaction holds; the last of them."""
        last, upto = stretch
        is_trimmed, read = bounds_of(log).first > 1, 0
        # In a trimmed log the first event of a run counts, whatever it is.
        pages = some_facts(
            log,
            after=last,
            upto=upto,
            limit=self._page_events,
            without=() if is_trimmed else self._unwanted,
            with_causes=any(view.causes for view in views),
        )
        # Before the transaction: what cannot be read takes nothing back.
        nothing: list[Fact] = []
        first = next(pages, nothing)
        if not first and not (self._unwanted and hash_at(log, upto)):
            return last
        with self.transaction():
            now = self.checkpoints()
            folds = self._warm(views, before, now)
            folding = Folding(self.connection, folds, is_skipped=self._is_skipped)
            for facts in chain([first] if first else [], pages):
                is_clean = facts[-1].position <= (self._clean_to or 0)
                # What was redacted before all of these were read need not be folded a second time.
                if is_trimmed or not (is_clean and self._is_from_start):
                    self._fold_anew(folding, rewritten_runs(facts, is_trimmed=is_trimmed), last, facts[0].position)
                if not is_clean:
                    mark_remains(self.connection, facts)
                folding.fold(facts, after=last)
                last, read = facts[-1].position, read + len(facts)
            if self._unwanted and read < self._page_events and hash_at(log, upto):
                # Of what comes until there nobody wants to hear.
                last = upto
            for name, (view, fold) in folds.items():
                fold.write(self.connection)
                broke = folding.parked.get(name)
                self._settle(view, now[name], log_id, last if broke is None else broke.last, broke)
        return last

    def _warm(
        self, views: list[View], before: dict[str, Checkpoint], now: dict[str, Checkpoint]
    ) -> dict[str, tuple[View, Fold]]:
        """The folds that may go on, each with nothing in memory but what belongs to its checkpoint."""
        folds: dict[str, tuple[View, Fold]] = {}
        for view in views:
            # Compare-and-set: whoever moved this view meanwhile has folded these events already.
            if now[view.name] != before[view.name]:
                self._forget(view)
                continue
            if self._written.get(view.name) != now[view.name].place:
                self._forget(view)
            if view.name not in self._folds:
                self._folds[view.name] = view.make_fold()
            folds[view.name] = (view, self._folds[view.name])
        return folds

    def _settle(self, view: View, now: Checkpoint, log_id: str, last: int, broke: Parked | None) -> None:
        """Write how far a view has come; one that stands where it stood has the same place."""
        place = now.place if last == now.position else (log_id, last, self._hash_at(last))
        after = (
            _checkpoint(view, place)
            if broke is None
            else _checkpoint(view, place, status="parked", error=broke.error[:ERROR_CHARS_MAX])
        )
        self._write_checkpoint(view, after)
        self._written[view.name] = after.place

    def _hash_at(self, position: int) -> bytes:
        return b"" if self._log is None else hash_at(self._log, position) or b""

    def _fold_anew(self, folding: Folding, run_ids: list[str], after: int, upto: int) -> None:
        """Runs of which earlier events were redacted: their rows are made of what is left of them before `upto`.

        A view that cannot take them stays `after` the position where it stands.
        """
        if not run_ids:
            return
        self.make_indexes()
        views = {name: (view, fold) for name, (view, fold) in folding.folds.items() if not view.sums}
        anew = Folding(self.connection, views, is_skipped=self._is_skipped)
        for _, fold in views.values():
            fold.write(self.connection)
        for run_id in run_ids:
            for view, fold in views.values():
                fold.forget()
                view.drop_run(self.connection, run_id)
            for earlier in pages_before(self._log, run_id, upto):
                anew.fold(earlier, after=after)
                for _, fold in views.values():
                    fold.write(self.connection)
        for name, broke in anew.parked.items():
            folding.park(name, after, broke.error)

    def _discard(self, views: list[View]) -> None:
        """These rows were folded from a log that is not this one, so the views begin anew."""
        with self.transaction():
            for view in views:
                self._forget(view)
                for table in view.tables:
                    self.connection.execute(f"DROP TABLE IF EXISTS {table}")
                self._create(view)

    def _forget(self, view: View) -> None:
        if view.name in self._folds:
            self._folds[view.name].forget()
        self._written.pop(view.name, None)

    def _create(self, view: View) -> None:
        for statement in view.ddl:
            if not self._lacks_indexes or statement not in view.indexes:
                self.connection.execute(statement)
        self._write_checkpoint(view, Checkpoint(fingerprint=view.fingerprint))

    def make_indexes(self) -> None:
        """What `is_building` left out; also earlier, where rows of a run have to be found."""
        if self._lacks_indexes:
            with sorting(self.connection):
                for view in self._views:
                    for statement in view.indexes:
                        self.connection.execute(statement.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS", 1))
            self._lacks_indexes = False

    def _write_checkpoint(self, view: View, checkpoint: Checkpoint) -> None:
        self.connection.execute(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)",
            (view.name, *checkpoint.place, checkpoint.fingerprint, checkpoint.status, checkpoint.error),
        )

    @contextmanager
    def transaction(self) -> Generator[None]:
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield
            self.connection.execute("COMMIT")
        except BaseException as error:
            for view in self._views:
                self._forget(view)
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and is_passing(error):
                raise NotWritten(*error.args) from error
            raise

    def open_log(self) -> sqlite3.Connection | None:
        """The log, None before its first event; a restored log is another file, so that is looked at each time."""
        try:
            found = (self._data / LOG_FILE).stat()
            identity = (found.st_dev, found.st_ino)
            if identity != self._log_identity:
                self.close_log()
                self._log = open_checked(self._data, has_to_be_quick=self._is_building)
                self._log_identity = identity
                self._skips = Skips(self._log)
        except (FileNotFoundError, NotFound):
            self.close_log()
        if self._connection is not None:
            self._connection.log = self._log
        return self._log

    def close_log(self) -> None:
        if self._log is not None:
            self._log.close()
        self._log = self._log_identity = self._skips = None

    def is_prepared(self) -> bool:
        columns = [row[1] for row in self.connection.execute("PRAGMA table_info(checkpoints)").fetchall()]
        if columns:
            if columns != CHECKPOINT_COLUMNS:
                raise ForeignViews("its checkpoints are not ours")
            return set(self.checkpoints()) >= {view.name for view in self._views}
        if self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise ForeignViews("it belongs to another program")
        return False

    def prepare(self) -> None:
        with self.transaction():
            self.connection.execute(CHECKPOINTS_DDL)
            known = self.checkpoints()
            for view in self._views:
                if view.name not in known:
                    self._create(view)


def _checkpoint(view: View, place: tuple[str, int, bytes], *, status: str = "live", error: str = "") -> Checkpoint:
    log_id, position, digest = place
    return Checkpoint(
        log_id=log_id, position=position, hash=digest, fingerprint=view.fingerprint, status=status, error=error
    )

"""The disposable views of a data folder: caught up to the log before they are read, by one process at a time.

Which file that is, and what is done about one that cannot be used; `projections.engine.projector` writes it.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eventstore.contract import PAGE_EVENTS
from eventstore.sqlite3_module import sqlite3
from projections.engine.checkpoints import Checkpoint, bounds_of
from projections.engine.generations import (
    FOLD_LOCK_FILE,
    REBUILD_LOCK_FILE,
    current_generation,
    locked,
    remove_files,
    remove_unused,
    switch_to,
    use,
    views_file,
)
from projections.engine.opening import Folded, connect, connect_read_only
from projections.engine.projector import ForeignViews, Freshness, NotWritten, Projector
from projections.engine.view import View
from runfold.errors import Contended, Damaged

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

_T = TypeVar("_T")
OPEN_WAIT_SECONDS = 10.0
BEHIND_MAX = 5_000  # Positions, about a second of folding: who asks a server, or beside one, waits for no more of it.


class Views:
    """One connection to the views of one data folder, for one thread."""

    def __init__(self, data: Path, views: tuple[View, ...], page_events: int = PAGE_EVENTS) -> None:
        self._data = data
        self._views = views
        self._projector = Projector(data, views, page_events)
        self._generation = 0
        self._use: int | None = None
        self._is_writable = False
        self._alone: TemporaryDirectory[str] | None = None
        """Where nobody may write and nobody has folded: views of this process alone."""

    @classmethod
    def open(cls, data: Path, *, views: tuple[View, ...] | None = None, page_events: int = PAGE_EVENTS) -> "Views":
        """The views of a data folder, all or some, made where there are none. Raises Contended, InvalidSetting."""
        if views is None:
            # Whoever reads one view only must not wait for the code of all of them.
            from projections.catalogue import VIEWS

            views = VIEWS
        opened = cls(data, views, page_events)
        try:
            try:
                opened._open_current()
            except sqlite3.DatabaseError as error:
                if not opened.leave_damaged(error):
                    raise
        except BaseException:
            opened.close()
            raise
        return opened

    @property
    def connection(self) -> Folded:
        """To query with; valid until the next `refresh`."""
        return self._projector.connection

    @property
    def data(self) -> Path:
        return self._data

    @property
    def path(self) -> Path:
        """The file that is read; it stays until `close`."""
        return views_file(self._data if self._alone is None else Path(self._alone.name), self._generation)

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Where each view stands; a parked one says why."""
        return self._projector.checkpoints()

    def open_log(self) -> sqlite3.Connection | None:
        """The log as the views read it, None before its first event."""
        return self._projector.open_log()

    def refresh(self, *, wait_seconds: float = 2.0, behind_max: int | None = None) -> Freshness:
        """Fold what the log holds beyond the checkpoints; waits a bounded time for another process that does.

        Views that are further behind than `behind_max` positions are left as they are: they are not for who waits.
        A damaged file is left behind: what it held is folded again from the log.
        """
        return self._whole(lambda: self._refresh(wait_seconds, behind_max=behind_max))

    def fold_some(self, positions: int) -> Freshness:
        """Fold the next positions of the log, so many at most, where no other process folds."""
        return self._whole(lambda: self._refresh(0, positions=positions))

    def ask(self, question: Callable[[Folded], _T]) -> _T:
        """One snapshot for all statements of a question, whatever other processes fold meanwhile."""
        connection = self.connection
        connection.execute("BEGIN")
        try:
            return question(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def leave_damaged(self, error: sqlite3.DatabaseError) -> bool:
        """Whether the file was at fault; another is in its place then, `stale` until it is folded."""
        if not self._is_writable or not _is_damage(error):
            return False
        self._replace(self._generation)
        return True

    def _whole(self, refresh: Callable[[], Freshness]) -> Freshness:
        try:
            return refresh()
        except sqlite3.DatabaseError as error:
            if not self.leave_damaged(error):
                raise
            return refresh()

    def _refresh(
        self, wait_seconds: float, *, behind_max: int | None = None, positions: int | None = None
    ) -> Freshness:
        if current_generation(self._data) != self._generation:
            self._open_current()
        log = self._projector.open_log()
        target = bounds_of(log).last
        freshness = self._projector.freshness(log, target)
        if not freshness.stale or not (self._is_writable or self._alone):
            return freshness
        if behind_max is not None and freshness.behind > behind_max:
            return freshness
        if self._alone is not None:
            with suppress(NotWritten, Damaged):
                self._projector.catch_up(log, target)
            return self._projector.freshness(log, target)
        with locked(self._data, FOLD_LOCK_FILE, wait_seconds) as is_held:
            # Whether it was us or the process that we waited for: what counts is where the views stand now.
            if is_held:
                upto = target if positions is None else target - freshness.behind + positions
                with suppress(NotWritten, Damaged):
                    self._projector.catch_up(log, min(target, upto))
            return self._projector.freshness(log, target)

    def close(self) -> None:
        self._projector.close_log()
        self._leave()
        if self._generation and self._is_writable and current_generation(self._data) != self._generation:
            remove_unused(self._data)

    def _open_current(self) -> None:
        before = self._generation
        while True:
            self._leave()
            self._generation = current_generation(self._data)
            self._use = use(self._data, self._generation)
            # It may have been replaced and removed before we had the lock that keeps it.
            if self._use is None or current_generation(self._data) == self._generation:
                break
        if before not in (0, self._generation):
            remove_unused(self._data)
        self._open_file()

    def _leave(self) -> None:
        self._projector.leave()
        if self._use is not None:
            os.close(self._use)
            self._use = None
        if self._alone is not None:
            self._alone.cleanup()
            self._alone = None

    def _open_file(self) -> None:
        """Open the file of the generation, made where it is not there."""
        path = self.path
        self._is_writable = os.access(self._data, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        self._projector.use(connect(path) if self._is_writable else connect_read_only(path))
        if self._is_writable and not self._projector.is_prepared():
            with locked(self._data, FOLD_LOCK_FILE, OPEN_WAIT_SECONDS) as is_held:
                if not is_held:
                    raise Contended(f"another process has held `{FOLD_LOCK_FILE}` for {OPEN_WAIT_SECONDS:g} s")
                # SQLite does not wait for a change of the journal's mode, so it is made under our lock; it lasts.
                self.connection.execute("PRAGMA journal_mode = WAL")
                self._projector.prepare()
        elif not self._is_writable and not self._has_all():
            from tempfile import TemporaryDirectory

            self._alone = TemporaryDirectory(prefix="runfold-views-")
            self._projector.use(connect(self.path))
            self._projector.prepare()

    def _has_all(self) -> bool:
        try:
            return self._projector.is_prepared()
        except ForeignViews:
            return False

    def _replace(self, generation: int) -> None:
        """Leave a file that cannot be used behind, as whoever is first of those that met it. Raises Contended.

        The next one is served at once, `stale` until it is folded: who has to serve answers meanwhile.
        """
        with locked(self._data, REBUILD_LOCK_FILE, OPEN_WAIT_SECONDS) as is_held:
            if not is_held:
                raise Contended("another process is rebuilding the views", hint="wait until it has ended")
            if current_generation(self._data) == generation:
                # Most processes never meet such a file.
                from projections.engine.sharing import wait_for_helper

                wait_for_helper(self._data)
                remove_files(self._data, generation + 1)
                switch_to(self._data, generation + 1)
        self._open_current()


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is at fault: locks, full disks and wrong statements are other classes of error."""
    return isinstance(error, ForeignViews) or type(error) is sqlite3.DatabaseError

"""The next generation of the views: folded beside the served one, gone on with where it was cut, served in one step."""

import gc
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from eventstore.boot import boot_id
from eventstore.contract import PAGE_EVENTS
from eventstore.durable import sync
from eventstore.proof.checking_beside import CheckBeside, Found
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.engine.checkpoints import Checkpoint, bounds_of, is_held, read_checkpoints
from projections.engine.generations import (
    FOLD_LOCK_FILE,
    REBUILD_LOCK_FILE,
    current_generation,
    locked,
    remove_files,
    remove_parts,
    remove_unused,
    switch_to,
    use,
    views_file,
)
from projections.engine.opening import connect
from projections.engine.projector import NotWritten, Projector
from projections.engine.sharing import Helper, part_file, shareable, wait_for_helper
from projections.engine.view import View
from runfold.errors import BadRequest, Contended, Damaged, NotFound, RunfoldError, Unavailable

PAGE_EVENTS_BUILDING = 32 * PAGE_EVENTS  # Nobody waits for its commits, so they may be fewer.
SWITCH_WAIT_SECONDS = 30.0
ROUNDS_MAX = 100  # Of catching up with a log that grows meanwhile, before who folds the served ones has to wait.
Progress = Callable[[int, int], object]

# Which views were asked for: the others are copies, and a half-built file is gone on with by the same wish only.
_WISH_DDL = "CREATE TABLE rebuilding (views TEXT NOT NULL, copied TEXT NOT NULL, boot_id TEXT NOT NULL) STRICT"


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """`folded_from`: where a rebuild that had been cut was gone on with, else 0. `copied` views were not folded."""

    generation: int
    position: int
    folded_from: int = 0
    folded: tuple[str, ...]
    copied: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()


def rebuild(
    data: Path,
    *,
    views: tuple[View, ...] = VIEWS,
    only: Sequence[str] = (),
    anew: bool = False,
    workers: int = 1,
    on_progress: Progress | None = None,
    on_check: Callable[[], object] | None = None,
) -> Rebuilt:
    """Fold the log into the next generation and point at it; readers keep the old one until then.

    `anew` takes nothing of a rebuild that was cut: it may hold what has been redacted since.
    With `only`, the other views are copied as they are. Two `workers` share the views, unless one worker had begun
    with all of them. Raises BadRequest, Contended, Damaged.
    """
    unknown = sorted(set(only) - {view.name for view in views})
    if unknown:
        raise BadRequest(f"there is no view `{unknown[0]}`", hint=f"one of {', '.join(view.name for view in views)}")
    with locked(data, REBUILD_LOCK_FILE, 0) as is_ours:
        if not is_ours:
            raise Contended("another process is rebuilding these views", hint="wait until it has ended")
        if anew:
            generation = current_generation(data) + 1
            wait_for_helper(data)
            remove_files(data, generation)
        return _built(data, views, only=only, workers=workers, on_progress=on_progress, on_check=on_check)


def _built(
    data: Path,
    views: tuple[View, ...],
    *,
    only: Sequence[str],
    workers: int,
    on_progress: Progress | None,
    on_check: Callable[[], object] | None,
) -> Rebuilt:
    """The next generation, whole before anybody is pointed to it; the caller holds the rebuilding lock.

    What was folded is checked then, see `eventstore.proof.checking`. Raises Damaged where the log does not match, and
    leaves all as it was.
    """
    generation = current_generation(data) + 1
    wait_for_helper(data)
    using = use(data, generation)
    checking = None
    try:
        building = _Building(data, generation, views, only)
        try:
            with _uncollected(), _told_as_damage(data, workers):
                if workers > 1:
                    building.fold_shared(on_progress)
                building.take_part()
                building.fold(on_progress)
            # Not while it folds: no more processes than workers are busy at a time.
            with suppress(NotFound):
                checking = CheckBeside(data, workers=workers)
            if on_check is not None:
                on_check()
            with _uncollected():
                found = Found(true=0) if checking is None else checking.wait()
            # Nobody folds the old ones meanwhile, so no reader finds itself further back after the switch.
            with locked(data, FOLD_LOCK_FILE, SWITCH_WAIT_SECONDS) as is_ours:
                if not is_ours:
                    raise Contended(
                        f"another process has held `{FOLD_LOCK_FILE}` for {SWITCH_WAIT_SECONDS:g} s",
                        hint="run it again; it goes on where it was",
                    )
                rebuilt = building.finish()
                if checking is not None:
                    found = checking.go_on(found, rebuilt.position)
                _refuse_damage(found)
                switch_to(data, generation)
        finally:
            building.views.close()
        remove_unused(data)
        return rebuilt
    except Damaged:
        remove_files(data, generation)
        raise
    finally:
        if checking is not None:
            checking.stop()
        if using is not None:
            os.close(using)


def _refuse_damage(found: Found, broke: Exception | None = None) -> None:
    if found.damage:
        raise Damaged(found.damage, hint=found.hint, run_id=found.run_id) from broke


@contextmanager
def _told_as_damage(data: Path, workers: int) -> Generator[None]:
    """Of what is folded before it is checked: whatever breaks at an altered log is told as Damaged."""
    try:
        yield
    except NotWritten:
        raise
    except Exception as error:
        if isinstance(error, RunfoldError) and not isinstance(error, Damaged):
            raise
        with suppress(NotFound):
            _refuse_damage(CheckBeside(data, workers=workers).wait(), broke=error)
        raise


@contextmanager
def _uncollected() -> Generator[None]:
    """Folding makes millions of objects and no cycles: looking for some takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Building:
    """The next generation's file, from its first table to the moment before it is served."""

    def __init__(self, data: Path, generation: int, views: tuple[View, ...], only: Sequence[str]) -> None:
        self._data = data
        self._wanted = views
        self._wish = "\n".join(sorted(only))
        self._generation = generation
        self._path = views_file(data, generation)
        self._part = part_file(self._path)
        self._others = shareable(views)
        """What a second process may fold."""
        self._copied: tuple[str, ...] = ()
        self.views = Projector(data, views, PAGE_EVENTS_BUILDING, is_building=True)
        try:
            self._log = self.views.open_log()
            if not self._can_go_on():
                remove_files(data, generation)
            self.views.build(self._path)
            self._begin(only)
            self._folded_from = self._position(self._part_position())
        except BaseException:
            self.views.close()
            raise

    def fold_shared(self, on_progress: Progress | None) -> None:
        """Fold up to the log's head with a second process, unless it began with all views in this one."""
        head, others = self._head(), self._others
        kept = tuple(view for view in self._wanted if view not in others)
        if self._have_others_begun() or self._copied or not head or not others or not kept:
            return

        def on_page(done: int) -> None:
            if on_progress is not None:
                on_progress(done, head)

        helper = Helper(self._data, self._part, others, head=head, page_events=PAGE_EVENTS_BUILDING)
        own = Projector(self._data, kept, PAGE_EVENTS_BUILDING, is_building=True)
        try:
            log = own.open_log()
            own.build(self._path)
            own.catch_up(log, head, on_page=on_page)
            own.make_indexes()
            helper.wait(on_page)
        finally:
            own.close()
            helper.stop()

    def take_part(self) -> None:
        """Copy what a second process has folded, however far it came, and go on from there."""
        if self._part_position() and not self._have_others_begun():
            connection = self.views.connection
            connection.execute("ATTACH DATABASE ? AS part", (str(self._part),))
            try:
                with self.views.transaction():
                    for view in self._others:
                        _copy(connection, view, source="part")
            finally:
                connection.execute("DETACH DATABASE part")
        remove_parts(self._data, self._generation)

    def _have_others_begun(self) -> bool:
        """Whether this process folds what a second one may: it goes on with that alone."""
        checkpoints = self.views.checkpoints()
        return any(checkpoints[view.name].position for view in self._others)

    def _part_position(self) -> int:
        """How far a second process came, now or in a rebuild that was cut; 0 where that cannot be gone on with."""
        if not self._part.exists():
            return 0
        try:
            with closing(connect(self._part)) as part:
                checkpoints = read_checkpoints(part)
        except sqlite3.DatabaseError:
            checkpoints = {}
        if not self._are_ours(checkpoints, self._others):
            remove_parts(self._data, self._generation)
            return 0
        return min(checkpoints[view.name].position for view in self._others)

    def fold(self, on_progress: Progress | None) -> None:
        """Fold until the log's head is near, however it moves meanwhile, and have most of the file on the disk."""
        self._fold_near(on_progress)
        self.views.make_indexes()
        self._fold_near(on_progress)
        sync(self._path)

    def _fold_near(self, on_progress: Progress | None) -> None:
        for _ in range(ROUNDS_MAX):
            head = self._head()
            self.views.catch_up(self._log, head, on_page=on_progress and (lambda done: on_progress(done, head)))  # noqa: B023
            if self._head() - head <= PAGE_EVENTS_BUILDING:
                return

    def finish(self) -> Rebuilt:
        """Fold the last events, and have the whole file on the disk."""
        self.views.catch_up(self._log, self._head())
        connection = self.views.connection
        connection.execute("DROP TABLE rebuilding")
        connection.execute("PRAGMA journal_mode = WAL")
        sync(self._path)
        checkpoints = self.views.checkpoints()
        return Rebuilt(
            generation=current_generation(self._data) + 1,
            position=self._position(),
            folded_from=self._folded_from,
            folded=tuple(view.name for view in self._wanted if view.name not in self._copied),
            copied=self._copied,
            parked=tuple(view.name for view in self._wanted if checkpoints[view.name].status == "parked"),
        )

    def _can_go_on(self) -> bool:
        """Whether a rebuild with the same wish, fingerprints and log was cut here, and no view had to stop."""
        if not self._path.exists():
            return False
        try:
            with closing(connect(self._path)) as left:
                wish, copied, boot = left.execute("SELECT views, copied, boot_id FROM rebuilding").fetchone()
                checkpoints = read_checkpoints(left)
        except (sqlite3.DatabaseError, TypeError):
            return False
        self._copied = tuple(copied.split())
        return (wish, boot) == (self._wish, boot_id()) and self._are_ours(checkpoints, self._wanted)

    def _are_ours(self, checkpoints: dict[str, Checkpoint], views: Sequence[View]) -> bool:
        """Whether views have been folded by these fingerprints from this log, and none had to stop."""
        head = bounds_of(self._log)
        return all(
            checkpoint.fingerprint == view.fingerprint
            and (checkpoint.status == "live" or view.name in self._copied)
            and is_held(self._log, head, checkpoint)
            for view in views
            for checkpoint in (checkpoints.get(view.name, Checkpoint()),)
        )

    def _begin(self, only: Sequence[str]) -> None:
        """Copy what is not asked for and note the wish, in one transaction: a file without the note is begun anew."""
        connection = self.views.connection
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'rebuilding'").fetchone():
            return
        others = [view for view in self._wanted if only and view.name not in only]
        served = views_file(self._data, current_generation(self._data))
        if others and served.exists():
            connection.execute("ATTACH DATABASE ? AS served", (str(served),))
        with self.views.transaction():
            self._copied = tuple(view.name for view in others if served.exists() and _copy(connection, view))
            connection.execute(_WISH_DDL)
            note = (self._wish, " ".join(self._copied), boot_id())
            connection.execute("INSERT INTO rebuilding VALUES (?, ?, ?)", note)
        if others and served.exists():
            connection.execute("DETACH DATABASE served")

    def _head(self) -> int:
        return bounds_of(self._log).last

    def _position(self, part: int = 0) -> int:
        """How far every view is; a second process may have some of them at `part`."""
        checkpoints = self.views.checkpoints()
        return min(
            max(checkpoints[view.name].position, part if view in self._others else 0)
            for view in self._wanted
            if view.name not in self._copied
        )


def _copy(connection: sqlite3.Connection, view: View, *, source: str = "served") -> bool:
    """Copy a view's rows with its checkpoint; not those of another making, which must be folded anew."""
    try:
        query = f"SELECT fingerprint FROM {source}.checkpoints WHERE view = ?"  # noqa: S608
        row = connection.execute(query, (view.name,)).fetchone()
        if row is None or row[0] != view.fingerprint:
            return False
        for table in view.tables:
            connection.execute(f"DELETE FROM main.{table}")  # noqa: S608
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM {source}.{table}")  # noqa: S608
        connection.execute(
            f"INSERT OR REPLACE INTO main.checkpoints SELECT * FROM {source}.checkpoints WHERE view = ?",  # noqa: S608
            (view.name,),
        )
    except sqlite3.DatabaseError as error:
        raise Unavailable(
            f"view `{view.name}` cannot be copied: {error}", hint="`runfold rebuild` folds every view anew"
        ) from error
    return True

"""`runs/<id>/state.json`: where a run stands, for programs that read files; whole at every moment, never backwards.

Whoever appends a lifecycle or audit event writes it, after the log has the event. The log stays the truth: a file that
a killed process could not write any more is written by the next command that writes, which looks at what the log got
since the last such look, so much at most as nobody minds to wait for; a server looks at all of it beside its work.
Reading never writes.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from eventstore.durable import write_durably
from eventstore.file_lock import FileLock
from eventstore.log_file import LOG_FILE
from eventstore.mirrored import mirrored_log
from eventstore.proof.checking import open_checked
from eventstore.proof.faults import Fault
from eventstore.reading import bounds, read_page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, Recorded, time_text
from runfold.errors import Damaged, RunfoldError
from runfold.events import EVENT_CLASSES, Json
from runfold.evolve import evolve_recorded
from runfold.report import report
from runfold.state import Run, new_run

FILE_NAME = "state.json"
LOOKED_FILE = "looked.json"
HISTORY_MAX = 1_000  # The newest; `history_omitted` counts those before them.
CHANGES_MAX = 200  # Whose files are written at once: each is synced.
DEVELOPER = "RUNFOLD_DEV"
REMEDY = "`runfold recover` writes it anew"
TOLD_TYPES = frozenset(name for name, kind in EVENT_CLASSES.items() if kind in ("lifecycle", "audit"))
"""Only these move a run; what comes between them changes no status and writes no file."""
_format = msgspec.json.format
_encode = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of status."""

    from_status: str | None = msgspec.field(name="from")
    to_status: str | None = msgspec.field(name="to")
    reason_code: str
    actor: str
    at: str
    position: int


class StateFile(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a run with its place in the log; `run_status` is the run's own word, `status` the report's."""

    run_id: str
    tenant: str
    run_status: str | None
    version: int
    position: int
    status: str
    reason_code: str
    message: str
    timestamp: str | None
    unit_name: str
    metrics: dict[str, Json]
    details: dict[str, Json]
    history: tuple[Change, ...]
    history_omitted: int = 0


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """Files are kept of what came after `since`; up to `upto` each is known to be current."""

    log_id: str
    since: int
    upto: int


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """Of the changes up to `reached` each is in its file; with `is_last` there are no more."""

    run_ids: tuple[str, ...]
    reached: int
    is_last: bool


class Told:
    """A run on its way through its events, with its changes of status."""

    def __init__(self, run: Run, position: int = 0, history: Iterable[Change] = (), omitted: int = 0) -> None:
        self.run, self.position = run, position
        self._history, self._omitted = list(history), omitted

    def add(self, events: Iterable[Recorded]) -> None:
        for recorded in events:
            before, self.run = self.run, evolve_recorded(self.run, recorded)
            self.position = recorded.position
            if self.run.status != before.status:
                self._history.append(
                    Change(
                        from_status=before.status,
                        to_status=self.run.status,
                        reason_code=self.run.reason_code,
                        actor=recorded.actor,
                        at=time_text(recorded.at_us),
                        position=recorded.position,
                    )
                )

    @property
    def changes(self) -> int:
        return len(self._history) + self._omitted

    def file(self) -> StateFile:
        run, made = self.run, report(self.run)
        details = made.details
        if "stack_trace" in details and not os.environ.get(DEVELOPER):
            details = {**details, "stack_trace": None}
        return StateFile(
            run_id=run.run_id,
            tenant=run.tenant,
            run_status=run.status,
            version=run.version,
            position=self.position,
            status=made.status,
            reason_code=made.reason_code,
            message=made.message,
            timestamp=made.timestamp,
            unit_name=made.unit_name,
            metrics=made.metrics,
            details=details,
            history=tuple(self._history[-HISTORY_MAX:]),
            history_omitted=self._omitted + max(0, len(self._history) - HISTORY_MAX),
        )


def read_state(data: Path, run_id: str) -> StateFile | None:
    """The file as it is; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode((data / "runs" / run_id / FILE_NAME).read_bytes(), type=StateFile)
    except (OSError, msgspec.MsgspecError):
        return None


def write_state(data: Path, before: Run, events: Sequence[Recorded]) -> None:
    """Bring the file forward over these events, which follow on the run as it was before. Raises OSError."""
    if not any(recorded.type in TOLD_TYPES for recorded in events):
        return
    run_id = before.run_id
    with _locked(data, run_id):
        file = read_state(data, run_id)
        if file is not None and file.version >= events[-1].version:
            return
        if before.version == 0:
            told = Told(before)
        elif file is None or file.run_status != before.status or file.version > before.version:
            # Somebody was killed before he could write: the changes in between are in the log alone.
            _write(data, _folded(data, run_id, upto=events[-1].position).file())
            return
        else:
            told = Told(before, file.position, file.history, file.history_omitted)
        told.add(events)
        _write(data, told.file())


def mend_states(data: Path, *, every: bool = False) -> list[str]:
    """Write every file that lags behind the log; the ids of those runs. Raises OSError, sqlite3.Error, RunfoldError.

    `every` also reads the files that were current at the last look, and writes those that tell another story.
    """
    mended: list[str] = []
    after = 0 if every else None
    while (found := mend_some(data, after=after, every=every)) is not None:
        mended += found.run_ids
        if found.is_last:
            break
        after = found.reached
    return mended


def mend_some(data: Path, *, after: int | None = None, every: bool = False) -> Mended | None:
    """The next of it, from where the last look ended or `after` a position; None without a log. Raises as it does.

    A folder has the files of the runs that were written to from it. Where machines share the log, the runs of others
    get none: nobody here would see to them for as long as no process of the folder is at work.
    """
    if not (data / LOG_FILE).exists():
        return None
    is_shared = mirrored_log(data) is not None
    mended: list[str] = []
    with closing(open_checked(data)) as connection, _locked(data, ""):
        place = bounds(connection)
        looked = read_looked(data)
        if looked is None or looked.log_id != place.log_id or looked.upto > place.last:
            looked = Looked(log_id=place.log_id, since=place.last, upto=place.last)
        changes = _changes(connection, looked.upto if after is None else after, place.last)
        is_last = len(changes) < CHANGES_MAX
        for run_id, position in {run_id: position for position, run_id in changes}.items():
            is_promised = position > looked.since and not is_shared
            if not is_promised and not (data / "runs" / run_id / FILE_NAME).exists():
                continue
            with _locked(data, run_id):
                file = read_state(data, run_id)
                # Of a run that was altered nothing is written; it keeps none of the others.
                with suppress(Damaged):
                    if file is None or file.position < position or (every and not _is_history(file, data, connection)):
                        _write(data, _folded(data, run_id, connection=connection).file())
                        mended.append(run_id)
        reached = place.last if is_last else changes[-1][0]
        upto = max(looked.upto, reached)
        _replace(data / "runs" / LOOKED_FILE, _encode(msgspec.structs.replace(looked, upto=upto)))
    return Mended(run_ids=tuple(mended), reached=reached, is_last=is_last)


def read_looked(data: Path) -> Looked | None:
    try:
        return msgspec.json.decode((data / "runs" / LOOKED_FILE).read_bytes(), type=Looked)
    except (OSError, msgspec.MsgspecError):
        return None


class States:
    """The proof of the files: each is the fold of its run's events up to where it stands; `files` counts them."""

    def __init__(self, connection: sqlite3.Connection, data: Path) -> None:
        self._connection, self._data = connection, data
        self._is_shared = mirrored_log(data) is not None
        self.files = 0

    def faults(self) -> Iterator[Fault]:
        """Files that lag, differ, or are not there where one was promised.

        Where machines share the log, each keeps files of what it appended: what others did since is not in them.
        """
        looked, place = read_looked(self._data), bounds(self._connection)
        since = looked.since if looked is not None and looked.log_id == place.log_id else place.last
        moved = dict(_moved(self._connection, 0, place.last))
        for run_id, position in moved.items():
            file = read_state(self._data, run_id)
            if file is None and not (self._data / "runs" / run_id / FILE_NAME).exists():
                if position > since and not self._is_shared:
                    yield _fault(run_id, position, "is not there")
                continue
            self.files += 1
            if file is None:
                yield _fault(run_id, position, "cannot be read", REMEDY)
            elif file.position < position and not self._is_shared:
                yield _fault(run_id, position, f"stands at event {file.position}; the run moved at event {position}")
            elif not _is_history(file, self._data, self._connection):
                yield _fault(run_id, file.position, "differs from the history of its run", REMEDY)


def _fault(run_id: str, position: int, what: str, remedy: str = "the next command that writes mends it") -> Fault:
    message = f"`{FILE_NAME}` of `{run_id}` {what}; {remedy}"
    return Fault(kind="state", message=message, run_id=run_id, position=position)


def _is_history(file: StateFile, data: Path, connection: sqlite3.Connection) -> bool:
    """Whether it says what the events of its run say, up to where it stands."""
    return _bare(file) == _bare(_folded(data, file.run_id, connection, upto=file.position).file())


def _bare(file: StateFile) -> StateFile:
    return msgspec.structs.replace(file, details={**file.details, "stack_trace": None})


def _moved(connection: sqlite3.Connection, after: int, upto: int) -> list[tuple[str, int]]:
    """The runs that moved between two positions, and where last."""
    marks = ", ".join("?" * len(TOLD_TYPES))
    query = (
        f"SELECT run_id, max(position) FROM events WHERE position > ? AND position <= ? AND type IN ({marks})"  # noqa: S608
        " AND run_id != ? GROUP BY run_id ORDER BY 2"
    )
    rows: list[Any] = connection.execute(query, (after, upto, *sorted(TOLD_TYPES), SYSTEM_STREAM)).fetchall()
    return [(run_id, position) for run_id, position in rows]


def _changes(connection: sqlite3.Connection, after: int, upto: int) -> list[tuple[int, str]]:
    """The next changes of runs between two positions."""
    marks = ", ".join("?" * len(TOLD_TYPES))
    query = (
        f"SELECT position, run_id FROM events WHERE position > ? AND position <= ? AND type IN ({marks})"  # noqa: S608
        " AND run_id != ? ORDER BY position LIMIT ?"
    )
    given = (after, upto, *sorted(TOLD_TYPES), SYSTEM_STREAM, CHANGES_MAX)
    return [(position, run_id) for position, run_id in connection.execute(query, given).fetchall()]


def _folded(data: Path, run_id: str, connection: sqlite3.Connection | None = None, *, upto: int | None = None) -> Told:
    if connection is None:
        with closing(open_checked(data)) as opened:
            return _folded(data, run_id, opened, upto=upto)
    told, after = Told(new_run(run_id)), 0
    while (page := read_page(connection, after=after, stream=run_id, upto=upto)).events:
        told.add(page.events)
        after = page.scanned_to
    return told


@contextmanager
def _locked(data: Path, run_id: str) -> Generator[None]:
    """The lock of the run's folder: of two who write its file, one waits. Raises Unavailable."""
    folder = data / "runs" / run_id
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with FileLock(descriptor, folder):
            yield
    finally:
        os.close(descriptor)


def _write(data: Path, file: StateFile) -> None:
    _replace(data / "runs" / file.run_id / FILE_NAME, _format(_encode(file), indent=1) + b"\n")


def _replace(path: Path, content: bytes) -> None:
    """Under its lock one name is enough for what is not yet whole; a killed writer's is written over."""
    new = path.with_name(f".{path.name}.new")
    write_durably(new, content)
    new.replace(path)


@contextmanager
def kept_going() -> Generator[None]:
    """The log has what the file could not take: `verify` tells, and the next command that writes tries again."""
    with suppress(OSError, sqlite3.Error, RunfoldError):
        yield

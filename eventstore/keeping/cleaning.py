"""What final runs no longer need, archived first and then taken from the log: their words, or all of them.

`clean` empties activity and output; lifecycle, usage and audit stay for ever. `trim` takes whole runs and leaves a
summary on the system stream. Nothing goes before its archive was opened again and proved.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from eventstore.blocks import BEYOND_ALL, DELETE_BEFORE, OF_RUN
from eventstore.chain import data_digest
from eventstore.contract import EVENT_BYTES_MAX
from eventstore.failpoints import reach
from eventstore.intents import Intent, announce
from eventstore.keeping.archive import SUFFIX, write_archive
from eventstore.keeping.restoring import opened_archive
from eventstore.keeping.summing import Summing
from eventstore.log_file import open_reader
from eventstore.proof.attachments import Attachments, blobs_of
from eventstore.proof.verifying import Proof
from eventstore.reading import read_page
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import Rewriting, Writer
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded
from runfold.errors import Refused
from runfold.events import EVENT_CLASSES, RunArchived, encode_data, event_class
from runfold.evolve import fold
from runfold.ordered_ids import ordered_id
from runfold.state import new_run

FOLDER = "archives"
REST_BYTES = 4 * 1024  # What a `run_archived` says beside its summary.
KEPT_FILES = frozenset({"state.json"})
DAY_US = 86_400_000_000
EVER_US = 2**62
_OLD_FINAL = (
    "SELECT h.run_id, h.version, last.recorded_at_us FROM heads h JOIN events last ON last.position = h.position"  # noqa: S608
    " WHERE last.recorded_at_us < ? AND h.run_id <> ? AND EXISTS"
    f" (SELECT 1 FROM {OF_RUN} WHERE run_id = h.run_id AND type IN ('run_completed', 'run_failed', 'run_cancelled'))"
    " ORDER BY h.position LIMIT ?"
)
RUNS_MAX = 100_000  # Cleaned at once, into one archive; the next clean takes the next.
_KEPT_TYPES = sorted(name for name, kind in EVENT_CLASSES.items() if kind not in ("activity", "output"))


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A final run, and what would go of it."""

    run_id: str
    version: int
    last_at_us: int
    events: int
    event_bytes: int
    file_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.event_bytes + self.file_bytes


class Cleaned(msgspec.Struct, frozen=True, kw_only=True):
    """What went. `skipped`: runs that changed while they were archived, or were cleaned by somebody else.

    `is_gone`: neither the log's file nor its journal holds a byte of it.
    """

    archive: str
    runs: tuple[str, ...]
    skipped: tuple[str, ...]
    events: int
    size_bytes: int
    is_gone: bool = True


def candidates(data: Path, *, before_us: int, whole: bool) -> list[Candidate]:
    """Final runs whose last event the log took before a time, the oldest first."""
    with closing(open_reader(data)) as connection:
        rows = connection.execute(_OLD_FINAL, (before_us, SYSTEM_STREAM, RUNS_MAX)).fetchall()
        found = [_candidate(connection, data, *row, whole=whole) for row in rows]
    return [candidate for candidate in found if whole or candidate.size_bytes]


def clean(
    data: Path,
    chosen: Sequence[Candidate],
    *,
    whole: bool = False,
    actor: str,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> Cleaned:
    """Archive the runs into one file, prove it, and then take what goes. Raises Refused where the proof fails."""
    name, digest = archived(data, chosen, now_us=now_us())
    done: list[Candidate] = []
    writer = Writer(data, now_us)
    try:
        for candidate in chosen:
            with writer.rewriting("clean", lifting=("events_remain",) if whole else ()) as rewriting:
                work = _Cleaning(data, rewriting, candidate, archive=name, digest=digest, actor=actor)
                if work.is_unchanged:
                    (work.trim if whole else work.empty)()
                    done.append(candidate)
            reach("clean.one_done")
        # The pages are overwritten in the file; in the journal the events still stand as they once came.
        is_gone = writer.scrub()
    finally:
        writer.close()
    gone = {candidate.run_id for candidate in done}
    return Cleaned(
        archive=name,
        runs=tuple(candidate.run_id for candidate in done),
        skipped=tuple(candidate.run_id for candidate in chosen if candidate.run_id not in gone),
        events=sum(candidate.events for candidate in done),
        size_bytes=sum(candidate.size_bytes for candidate in done),
        is_gone=is_gone,
    )


def archived(data: Path, chosen: Sequence[Candidate], *, now_us: int) -> tuple[str, str]:
    """Archive the runs and prove it; the archive's name in the folder, and its sha256. Raises Refused."""
    name = f"{FOLDER}/{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_us / 1e6))}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    archive = data / name
    write_archive(data, archive, [candidate.run_id for candidate in chosen], now_us=now_us)
    reach("clean.archived")
    _prove(archive)
    with archive.open("rb") as file:
        return name, hashlib.file_digest(file, "sha256").hexdigest()


class SummedUp(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is to be trimmed: what is kept of it, and what its events named."""

    tenant: str
    events: int
    position: int
    hash: bytes
    summary: Any
    blobs: tuple[str, ...]


def summed_up(connection: sqlite3.Connection, candidate: Candidate) -> SummedUp:
    """What a run comes to, by its events up to the one that was archived last."""
    run, named, count, last = Summing(candidate.run_id), dict[str, None](), 0, None
    for page in _pages(connection, candidate):
        count, last = count + len(page), page[-1]
        for recorded in page:
            run.add(recorded)
            if recorded.data is not None:
                named.update(dict.fromkeys(_blobs(recorded)))
    assert last is not None  # noqa: S101
    summary = run.summary(position=last.position, bytes_max=EVENT_BYTES_MAX - REST_BYTES)
    return SummedUp(
        tenant=last.tenant, events=count, position=last.position, hash=last.hash, summary=summary, blobs=tuple(named)
    )


class Emptied(msgspec.Struct, frozen=True, kw_only=True):
    """Events whose data goes, and what it counted for."""

    tenant: str
    events: tuple[Recorded, ...]
    summary: Any
    blobs: tuple[str, ...]


def to_empty(connection: sqlite3.Connection, candidate: Candidate) -> Emptied:
    """What `clean` takes of a run: the words of activity and output."""
    before, after = new_run(candidate.run_id), new_run(candidate.run_id)
    tenant, named, going = "", dict[str, None](), list[Recorded]()
    for page in _pages(connection, candidate):
        tenant = page[0].tenant
        before = fold(before, page)
        left: list[Recorded] = []
        for recorded in page:
            goes = event_class(recorded.type) in ("activity", "output")
            left.append(msgspec.structs.replace(recorded, data=None, salt=None) if goes else recorded)
            if goes and recorded.data is not None:
                named.update(dict.fromkeys(_blobs(recorded)))
                going.append(recorded)
        after = fold(after, left)
    was, remains = msgspec.to_builtins(before), msgspec.to_builtins(after)
    summary = {"run": {name: value for name, value in was.items() if remains[name] != value}}
    return Emptied(tenant=tenant, events=tuple(going), summary=summary, blobs=tuple(named))


def told_archived(
    candidate: Candidate,
    *,
    reason: str,
    tenant: str,
    counts: dict[str, int],
    summary: Any,
    archive: tuple[str, str],
    actor: str,
    now_us: int,
    last: bytes = b"",
) -> NewEvent:
    """The event that says what went; `archive` is its name and sha256, `last` the hash of a trimmed run's end."""
    told = RunArchived(
        run_id=candidate.run_id,
        digests={"archive": archive[1]} | ({"hash": last.hex()} if last else {}),
        counts=counts | {"bytes": candidate.size_bytes},
        reason=reason,
        archive=archive[0],
        summary=summary,
    )
    return NewEvent(
        id=ordered_id(),
        type="run_archived",
        data=encode_data(told),
        at_us=now_us,
        tenant=tenant,
        actor=actor,
    )


def trim(data: Path, run_ids: Sequence[str], *, actor: str) -> tuple[str, ...]:
    """Archive and take these runs as a whole, where they are final; the answer names those that went."""
    wanted = set(run_ids)
    chosen = [found for found in candidates(data, before_us=EVER_US, whole=True) if found.run_id in wanted]
    return clean(data, chosen, whole=True, actor=actor).runs if chosen else ()


def _candidate(
    connection: sqlite3.Connection, data: Path, run_id: str, version: int, last_at_us: int, *, whole: bool
) -> Candidate:
    query = f"SELECT count(*), coalesce(sum(length(data)), 0) FROM {OF_RUN} WHERE run_id = ?"  # noqa: S608
    kept: list[str] = []
    if not whole:
        kept = _KEPT_TYPES
        query += f" AND data IS NOT NULL AND type NOT IN ({', '.join('?' * len(kept))})"
    events, size_bytes = connection.execute(query, (run_id, *kept)).fetchone()
    return Candidate(
        run_id=run_id,
        version=version,
        last_at_us=last_at_us,
        events=events,
        event_bytes=size_bytes,
        file_bytes=sum(path.stat().st_size for path in files_of(data, run_id)),
    )


def files_of(data: Path, run_id: str) -> list[Path]:
    folder = data / "runs" / run_id
    return [path for path in sorted(folder.glob("*")) if path.is_file() and path.name not in KEPT_FILES]


def _prove(archive: Path) -> None:
    try:
        with opened_archive(archive) as folder, closing(open_reader(folder)) as connection:
            proof = Proof(connection)
            faults = [*proof.faults(), *Attachments(connection, folder).faults(upto=proof.head)]
    except BaseException:
        archive.unlink(missing_ok=True)
        raise
    if faults:
        archive.unlink()
        raise Refused(
            f"what was to be cleaned does not hold: {faults[0].message} ({len(faults)} faults)",
            hint="`runfold verify` says what is wrong; nothing was changed",
        )


class _Cleaning:
    """One run in one transaction."""

    def __init__(
        self, data: Path, rewriting: Rewriting, candidate: Candidate, *, archive: str, digest: str, actor: str
    ) -> None:
        self._data = data
        self._rewriting = rewriting
        self._connection = rewriting.connection
        self._candidate = candidate
        self._archive = archive
        self._digest = digest
        self._actor = actor
        self._run_id = candidate.run_id

    @property
    def is_unchanged(self) -> bool:
        """Whether the archive has all of the run: what came since would be lost, or was to be forgotten."""
        query = "SELECT h.version FROM heads h JOIN events e ON e.position = h.position WHERE h.run_id = ?"
        found = self._connection.execute(query, (self._run_id,)).fetchone()
        return bool(found == (self._candidate.version,))

    def empty(self) -> None:
        """Take the words of activity and output; what they counted for is told by the event that follows."""
        emptied = to_empty(self._connection, self._candidate)
        for recorded in emptied.events:
            digest = None if recorded.salt is None else data_digest(recorded.salt, recorded.data or b"")
            self._connection.execute(
                "UPDATE events SET data = NULL, salt = NULL, digest = coalesce(digest, ?) WHERE position = ?",
                (digest, recorded.position),
            )
        named, counts = dict.fromkeys(emptied.blobs), {"events": self._candidate.events}
        self._tell(self._run_id, emptied.tenant, "cleaned", counts, emptied.summary, named)

    def trim(self) -> None:
        """Take the whole run; what it came to stays on the system stream."""
        summed = summed_up(self._connection, self._candidate)
        self._connection.execute(DELETE_BEFORE, (self._run_id, BEYOND_ALL))
        self._connection.execute("UPDATE head SET trimmed_to = max(trimmed_to, ?)", (summed.position,))
        named = dict.fromkeys(summed.blobs)
        counts = {"trimmed": summed.events}
        self._tell(SYSTEM_STREAM, summed.tenant, "trimmed", counts, summed.summary, named, last=summed.hash)

    def _tell(
        self,
        stream: str,
        tenant: str,
        reason: str,
        counts: dict[str, int],
        summary: Any,
        named: dict[str, None],
        *,
        last: bytes = b"",
    ) -> None:
        event = told_archived(
            self._candidate,
            reason=reason,
            tenant=tenant,
            counts=counts,
            summary=summary,
            archive=(self._archive, self._digest),
            actor=self._actor,
            now_us=self._rewriting.now_us,
            last=last,
        )
        self._rewriting.append(stream, [event])
        lonely = not_named(self._connection, named)
        removals = [f"blobs/{sha256[:2]}/{sha256}" for sha256 in lonely]
        if stream == SYSTEM_STREAM:
            removals.append(f"runs/{self._run_id}")
        else:
            removals += [str(path.relative_to(self._data)) for path in files_of(self._data, self._run_id)]
        announce(self._data, Intent(run_id=stream, event_id=event.id, removals=tuple(removals)))


def not_named(connection: sqlite3.Connection, named: Iterable[str], *, but: str = "") -> list[str]:
    """Those that no event names; `but`: of another run than this."""
    query = "SELECT 1 FROM events WHERE run_id <> ? AND data IS NOT NULL AND instr(data, CAST(? AS BLOB)) LIMIT 1"
    return [name for name in named if connection.execute(query, (but, name)).fetchone() is None]


def _pages(connection: sqlite3.Connection, candidate: Candidate) -> Iterator[Sequence[Recorded]]:
    after = 0
    while page := read_page(connection, after=after, stream=candidate.run_id).events:
        yield page
        after = page[-1].position
        if page[-1].version == candidate.version:
            return


def _blobs(recorded: Recorded) -> list[str]:
    assert recorded.data is not None  # noqa: S101
    try:
        return list(blobs_of(recorded.type, msgspec.json.decode(recorded.data)))
    except msgspec.DecodeError:
        return []

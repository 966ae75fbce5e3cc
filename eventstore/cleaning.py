"""What final runs no longer need, archived first and then taken from the log: their words, or all of them.

`clean` empties activity and output; lifecycle, usage and audit stay for ever. `trim` takes whole runs and leaves a
summary on the system stream. Nothing goes before its archive was opened again and proved.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from eventstore.archive import SUFFIX, write_archive
from eventstore.attachments import Attachments, blobs_of
from eventstore.chain import data_digest
from eventstore.contract import EVENT_BYTES_MAX
from eventstore.failpoints import reach
from eventstore.intents import Intent, announce
from eventstore.reading import open_reader, read_page
from eventstore.restoring import opened_archive
from eventstore.sqlite3_module import sqlite3
from eventstore.summing import Summing
from eventstore.verifying import Proof
from eventstore.writing import Rewriting, Writer
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded
from runfold.errors import Refused
from runfold.events import EVENT_CLASSES, RunArchived, encode_data, event_class
from runfold.evolve import fold
from runfold.state import new_run

FOLDER = "archives"
REST_BYTES = 4 * 1024  # What a `run_archived` says beside its summary.
KEPT_FILES = frozenset({"state.json"})
DAY_US = 86_400_000_000
EVER_US = 2**62
_OLD_FINAL = (
    "SELECT h.run_id, h.version, last.recorded_at_us FROM heads h JOIN events last ON last.position = h.position"
    " WHERE last.recorded_at_us < ? AND h.run_id <> ? AND EXISTS (SELECT 1 FROM events e WHERE e.run_id = h.run_id"
    " AND e.type IN ('run_completed', 'run_failed', 'run_cancelled')) ORDER BY h.position LIMIT ?"
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
    name = f"{FOLDER}/{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_us() / 1e6))}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    archive = data / name
    write_archive(data, archive, [candidate.run_id for candidate in chosen], now_us=now_us())
    reach("clean.archived")
    _prove(archive)
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
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


def trim(data: Path, run_ids: Sequence[str], *, actor: str) -> tuple[str, ...]:
    """Archive and take these runs as a whole, where they are final; the answer names those that went."""
    wanted = set(run_ids)
    chosen = [found for found in candidates(data, before_us=EVER_US, whole=True) if found.run_id in wanted]
    return clean(data, chosen, whole=True, actor=actor).runs if chosen else ()


def _candidate(
    connection: sqlite3.Connection, data: Path, run_id: str, version: int, last_at_us: int, *, whole: bool
) -> Candidate:
    query = "SELECT count(*), coalesce(sum(length(data)), 0) FROM events WHERE run_id = ?"
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
        file_bytes=sum(path.stat().st_size for path in _files(data, run_id)),
    )


def _files(data: Path, run_id: str) -> list[Path]:
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
        before, after = new_run(self._run_id), new_run(self._run_id)
        tenant, named = "", dict[str, None]()
        for page in self._pages():
            tenant = page[0].tenant
            before = fold(before, page)
            left: list[Recorded] = []
            for recorded in page:
                goes = event_class(recorded.type) in ("activity", "output")
                left.append(msgspec.structs.replace(recorded, data=None, salt=None) if goes else recorded)
                if goes and recorded.data is not None:
                    named.update(dict.fromkeys(_blobs(recorded)))
                    digest = None if recorded.salt is None else data_digest(recorded.salt, recorded.data)
                    self._connection.execute(
                        "UPDATE events SET data = NULL, salt = NULL, digest = coalesce(digest, ?) WHERE position = ?",
                        (digest, recorded.position),
                    )
            after = fold(after, left)
        was, remains = msgspec.to_builtins(before), msgspec.to_builtins(after)
        summary = {"run": {name: value for name, value in was.items() if remains[name] != value}}
        self._tell(self._run_id, tenant, "cleaned", {"events": self._candidate.events}, summary, named)

    def trim(self) -> None:
        """Take the whole run; what it came to stays on the system stream."""
        run, tenant, named, count, last = Summing(self._run_id), "", dict[str, None](), 0, b""
        for page in self._pages():
            tenant, count, last = page[0].tenant, count + len(page), page[-1].hash
            for recorded in page:
                run.add(recorded)
                if recorded.data is not None:
                    named.update(dict.fromkeys(_blobs(recorded)))
        position = self._connection.execute("SELECT position FROM heads WHERE run_id = ?", (self._run_id,)).fetchone()[
            0
        ]
        self._connection.execute("DELETE FROM events WHERE run_id = ?", (self._run_id,))
        self._connection.execute("UPDATE head SET trimmed_to = max(trimmed_to, ?)", (position,))
        summary = run.summary(position=position, bytes_max=EVENT_BYTES_MAX - REST_BYTES)
        self._tell(SYSTEM_STREAM, tenant, "trimmed", {"trimmed": count}, summary, named, last=last)

    def _pages(self) -> Iterator[Sequence[Recorded]]:
        after = 0
        while page := read_page(self._connection, after=after, stream=self._run_id).events:
            yield page
            after = page[-1].position
            if page[-1].version == self._candidate.version:
                return

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
        digests = {"archive": self._digest} | ({"hash": last.hex()} if last else {})
        told = RunArchived(
            run_id=self._run_id,
            digests=digests,
            counts=counts | {"bytes": self._candidate.size_bytes},
            reason=reason,
            archive=self._archive,
            summary=summary,
        )
        event = NewEvent(
            id=str(uuid.uuid4()),
            type="run_archived",
            data=encode_data(told),
            at_us=self._rewriting.now_us,
            tenant=tenant,
            actor=self._actor,
        )
        self._rewriting.append(stream, [event])
        query = "SELECT 1 FROM events WHERE data IS NOT NULL AND instr(data, CAST(? AS BLOB)) LIMIT 1"
        lonely = [name for name in named if self._connection.execute(query, (name,)).fetchone() is None]
        removals = [f"blobs/{sha256[:2]}/{sha256}" for sha256 in lonely]
        if stream == SYSTEM_STREAM:
            removals.append(f"runs/{self._run_id}")
        else:
            removals += [str(path.relative_to(self._data)) for path in _files(self._data, self._run_id)]
        announce(self._data, Intent(run_id=stream, event_id=event.id, removals=tuple(removals)))


def _blobs(recorded: Recorded) -> list[str]:
    assert recorded.data is not None  # noqa: S101
    try:
        return list(blobs_of(recorded.type, msgspec.json.decode(recorded.data)))
    except msgspec.DecodeError:
        return []

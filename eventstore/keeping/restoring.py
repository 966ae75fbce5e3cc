"""Archived runs put back into a log: whole where they are gone, and what was emptied of them filled again.

What an archive says is proved by its hashes before the first row is written, and all of it is one transaction.
"""

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from eventstore.anchoring import write_anchor
from eventstore.appending import ANCHOR_EVENTS
from eventstore.blocks import OF_RUN
from eventstore.durable import write_durably
from eventstore.intents import Intent, announce
from eventstore.keeping.archive import ArchivedRun, Manifest, open_archive, read_rows
from eventstore.objects import blobs
from eventstore.proof.attachments import blobs_of
from eventstore.rows import uuid_text
from eventstore.state_file import FILE_NAME as STATE_FILE
from eventstore.whole_rows import INSERT_WHOLE, WholeRow
from eventstore.writing import Rewriting, Writer
from runfold.envelope import NewEvent
from runfold.errors import Refused
from runfold.events import EventRedacted, RunArchived, encode_data
from runfold.ordered_ids import ordered_id

READY = ".restored"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run of an archive: `events_new` were added, `events_filled` had been emptied."""

    run_id: str
    title: str
    status: str
    events_new: int = 0
    events_filled: int = 0
    files: int = 0


def restore(
    path: Path, data: Path, *, actor: str, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
) -> list[Restored]:
    """Put every run of an archive into the log of a folder. Raises BadRequest, Refused; nothing was changed then."""
    with open_archive(path) as (manifest, members):
        staged = tempfile.TemporaryDirectory(prefix="runfold-restore-")
        with staged as folder:
            rows, files = _stage(path, manifest, members, Path(folder))
            writer = Writer(data, now_us)
            try:
                with writer.rewriting("restore", lifting=("events_stay",)) as rewriting:
                    work = _Restoring(data, rewriting, files)
                    return [work.run(run, rows(run.run_id), actor) for run in manifest.runs]
            finally:
                writer.close()


@contextmanager
def opened_archive(path: Path) -> Generator[Path]:
    """A data folder of its own that holds nothing but the archive; it goes when it is closed."""
    with tempfile.TemporaryDirectory(prefix="runfold-archive-") as folder:
        restore(path, Path(folder), actor="system")
        yield Path(folder)


def _stage(
    path: Path, manifest: Manifest, members: Iterator[tuple[str, IO[bytes]]], folder: Path
) -> tuple[Callable[[str], list[WholeRow]], dict[str, Path]]:
    """Everything out of the archive and proved, before the log is touched."""
    found: dict[str, list[WholeRow]] = {}
    files: dict[str, Path] = {}
    for number, (name, content) in enumerate(members):
        if name == "events.jsonl":
            for row in read_rows(path, content, manifest):
                found.setdefault(row.run_id, []).append(row)
            continue
        files[name] = folder / str(number)
        with files[name].open("wb") as file:
            while chunk := content.read(1024 * 1024):
                file.write(chunk)
    return found.__getitem__, files


class _Restoring:
    def __init__(self, data: Path, rewriting: Rewriting, files: dict[str, Path]) -> None:
        self._data = data
        self._rewriting = rewriting
        self._connection = rewriting.connection
        self._files = files
        self._renames: list[tuple[str, str]] = []

    def run(self, archived: ArchivedRun, rows: list[WholeRow], actor: str) -> Restored:
        last = bytes.fromhex(archived.hash)
        head = self._connection.execute(
            "SELECT version, hash FROM heads WHERE run_id = ?", (archived.run_id,)
        ).fetchone()
        query = f"SELECT version, position, hash FROM {OF_RUN} WHERE run_id = ?"  # noqa: S608
        found = self._connection.execute(query, (archived.run_id,)).fetchall()
        held = {version: event_hash for version, _, event_hash in found}
        if head is not None and held.get(archived.version, head[1] if not held else None) != last:
            raise Refused(
                f"run `{archived.run_id}` of the log is not the one of the archive",
                hint="it has gone on since, or is another; nothing was changed",
                run_id=archived.run_id,
            )
        redactions = self._redactions(archived.run_id)
        rows = [row for row in rows if row.version not in redactions]
        if held:
            filled, added = self._fill(rows, {version: position for version, position, _ in found}), 0
        else:
            self._insert(rows)
            filled, added = 0, len(rows)
        # An archive that is older than a redaction still has the output with the secret.
        is_older = any(version > archived.version for version in redactions.values())
        files = self._bring_blobs(rows) + (0 if is_older else self._bring_files(archived)) if filled or added else 0
        if filled:
            self._tell(archived, filled, actor)
        self._announce(archived)
        return Restored(
            run_id=archived.run_id,
            title=archived.title,
            status=archived.status,
            events_new=added,
            events_filled=filled,
            files=files,
        )

    def _insert(self, rows: list[WholeRow]) -> None:
        position, recorded_at_us = self._connection.execute("SELECT position, recorded_at_us FROM head").fetchone()
        recorded_at_us = max(recorded_at_us, self._rewriting.now_us)
        for number, row in enumerate(rows, 1):
            # The log's own words; no hash holds them.
            placed = row._replace(position=position + number, recorded_at_us=recorded_at_us)
            self._connection.execute(INSERT_WHOLE, placed)
        position += len(rows)
        self._connection.execute(
            "INSERT OR REPLACE INTO heads (run_id, position, version, hash) VALUES (?, ?, ?, ?)",
            (rows[-1].run_id, position, rows[-1].version, rows[-1].hash),
        )
        self._connection.execute("UPDATE head SET position = ?, recorded_at_us = ?", (position, recorded_at_us))
        anchor = write_anchor(self._connection, position, at_least=ANCHOR_EVENTS)
        if anchor is not None:
            self._rewriting.anchors.append(anchor)

    def _redactions(self, run_id: str) -> dict[int, int]:
        """Redacted version → version of the event that tells of it."""
        told = self._connection.execute(
            f"SELECT version, data FROM {OF_RUN} WHERE run_id = ? AND type = 'event_redacted' AND data IS NOT NULL",  # noqa: S608
            (run_id,),
        ).fetchall()
        return {msgspec.json.decode(data, type=EventRedacted).version: version for version, data in told}

    def _fill(self, rows: list[WholeRow], places: dict[int, int]) -> int:
        """Give emptied events their data again; what was redacted stays away."""
        filled = 0
        for row in rows:
            if row.salt is not None:
                filled += self._connection.execute(
                    "UPDATE events SET data = ?, salt = ?, digest = NULL WHERE position = ? AND data IS NULL",
                    (row.data, row.salt, places.get(row.version)),
                ).rowcount
        return filled

    def _bring_blobs(self, rows: list[WholeRow]) -> int:
        """At once: nobody minds a blob that no event names yet."""
        names = {f"blobs/{sha256}" for row in rows for sha256 in _blobs(row)}
        known = names & self._files.keys()
        for name in known:
            blobs.put(self._data, self._files[name].read_bytes())
        return len(known)

    def _bring_files(self, archived: ArchivedRun) -> int:
        folder = self._data / "runs" / archived.run_id
        for name, staged in self._files.items():
            # Where a run stands in this log, the file of another one does not know.
            if name.endswith(f"/{STATE_FILE}"):
                continue
            if name.startswith(f"runs/{archived.run_id}/") and not (self._data / name).exists():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_durably(self._data / (name + READY), staged.read_bytes())
                self._renames.append((name + READY, name))
        return len(self._renames)

    def _tell(self, archived: ArchivedRun, filled: int, actor: str) -> None:
        told = RunArchived(run_id=archived.run_id, reason="restored", counts={"events": filled})
        event = NewEvent(
            id=ordered_id(),
            type="run_archived",
            data=encode_data(told),
            at_us=self._rewriting.now_us,
            tenant=archived.tenant,
            actor=actor,
        )
        self._rewriting.append(archived.run_id, [event])

    def _announce(self, archived: ArchivedRun) -> None:
        """The files take their names with the commit of the run's last event."""
        if self._renames:
            query = f"SELECT id FROM {OF_RUN} WHERE run_id = ? ORDER BY block DESC, version DESC LIMIT 1"  # noqa: S608
            (identity,) = self._connection.execute(query, (archived.run_id,)).fetchone()
            renames = tuple(self._renames)
            announce(self._data, Intent(run_id=archived.run_id, event_id=uuid_text(identity), renames=renames))
            self._renames.clear()


def _blobs(row: WholeRow) -> list[str]:
    try:
        return [] if row.data is None else list(blobs_of(row.type, msgspec.json.decode(row.data)))
    except msgspec.DecodeError:
        return []

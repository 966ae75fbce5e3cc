"""The copying of a log in a process of its own, which goes on with its batch when who asked for it is stopped.

SQLite keeps the journal for who reads in a batch: were it the process of a terminal, Ctrl-Z would let the journal grow.
`python -m eventstore.keeping.copying LOG COPY` is that process; it prints its progress, and at the end the manifest.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from eventstore.blocks import OF_RUN
from eventstore.log_file import open_reader
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS
from eventstore.writing import SCHEMA
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import Unavailable

FORMAT = 1
BATCH_EVENTS = 5_000  # Copied in some tens of milliseconds, in which the journal cannot be emptied.
_BATCH = (
    f"INSERT INTO main.events ({WHOLE_COLUMNS})"  # noqa: S608
    f" SELECT {WHOLE_COLUMNS} FROM live.events WHERE position > ? AND position <= ?"
)
_HEADS = f"INSERT INTO main.heads SELECT run_id, position, max(version), hash FROM {OF_RUN} GROUP BY run_id"  # noqa: S608


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. `head` and `hash` are of the log's last event; sizes are in bytes."""

    format: int
    log_id: str
    head: int
    hash: str
    events: int
    runs: int
    log_sha256: str
    files: int
    size_bytes: int


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of what the copying process says: how far it is, or how it ended. `ended` without a manifest: earlier
    events were changed meanwhile."""

    done: int = 0
    total: int = 0
    ended: bool = False
    manifest: Manifest | None = None
    error: str = ""


def copy_beside(log: Path, copy: Path, on_progress: Callable[[int, int], None] | None = None) -> Manifest | None:
    """As `copy_log`. Raises Unavailable where the copy cannot be written."""
    command = [sys.executable, "-m", "eventstore.keeping.copying", str(log), str(copy)]
    # In a session of its own, so that what a terminal sends to its programs does not stop it.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.error:
                raise Unavailable(f"the log cannot be copied: {said.error}", hint="free or repair the disk of the copy")
            if said.ended:
                return said.manifest
            if on_progress is not None:
                on_progress(said.done, said.total)
        raise Unavailable("the log cannot be copied: the process that copies it ended", hint="back it up again")
    finally:
        process.kill()
        process.communicate()


def copy_log(
    source: sqlite3.Connection,
    original: Path,
    path: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest | None:
    """The log as it was at its head, a batch of events at a time; None where earlier events were changed meanwhile.

    Each batch is a read of its own: a copy in one would hold the log's journal for as long as the copy's disk takes,
    and SQLite's own copy in steps would begin anew after each append.
    """
    log_id, head, trimmed_to = source.execute("SELECT log_id, position, trimmed_to FROM head").fetchone()
    with closing(sqlite3.connect(path.absolute().as_uri(), uri=True, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        copy.execute("PRAGMA journal_mode = OFF")
        copy.executescript(SCHEMA.read_text(encoding="utf-8"))
        copy.execute("ATTACH DATABASE ? AS live", (f"{original.absolute().as_uri()}?mode=ro",))
        after = 0
        while after < head:
            # How far a batch goes is asked first, as trimmed positions are skipped.
            row = copy.execute(
                "SELECT max(position) FROM (SELECT position FROM live.events WHERE position > ? AND position <= ?"
                " ORDER BY position LIMIT ?)",
                (after, head, BATCH_EVENTS),
            ).fetchone()
            upto = head if row[0] is None else row[0]
            copy.execute(_BATCH, (after, upto))
            after = upto
            if on_progress is not None:
                on_progress(after, head)
        copy.execute("INSERT INTO main.anchors SELECT * FROM live.anchors WHERE position <= ?", (head,))
        copy.execute(_HEADS)
        # Of a run that is trimmed only its head is left.
        copy.execute(
            "INSERT OR IGNORE INTO main.heads SELECT * FROM live.heads WHERE position <= ?", (min(trimmed_to, head),)
        )
        rewritten = is_rewritten(copy, "live", head, trimmed_to)
        recorded_at_us = copy.execute("SELECT max(recorded_at_us) FROM main.events").fetchone()[0] or 0
        copy.execute("INSERT INTO main.head VALUES (1, ?, ?, ?, ?)", (log_id, head, recorded_at_us, trimmed_to))
        copy.execute("DETACH DATABASE live")
        return None if rewritten else _read_manifest(copy)


def is_rewritten(connection: sqlite3.Connection, log: str, head: int, trimmed_to: int) -> bool:
    """Whether events up to a position were changed or taken since that was the log's head."""
    query = (
        f"SELECT EXISTS (SELECT 1 FROM {log}.events WHERE position > ? AND type IN ('event_redacted', 'run_archived'))"  # noqa: S608
        f" OR (SELECT trimmed_to FROM {log}.head) <> ?"
    )
    return bool(connection.execute(query, (head, trimmed_to)).fetchone()[0])


def _read_manifest(log: sqlite3.Connection) -> Manifest:
    log_id, head = log.execute("SELECT log_id, position FROM head").fetchone()
    newest = log.execute("SELECT hash FROM events WHERE position = ?", (head,)).fetchone()
    return Manifest(
        format=FORMAT,
        log_id=log_id,
        head=head,
        hash="" if newest is None else newest[0].hex(),
        events=log.execute("SELECT count(*) FROM events").fetchone()[0],
        runs=log.execute("SELECT count(*) FROM heads WHERE run_id <> ?", (SYSTEM_STREAM,)).fetchone()[0],
        log_sha256="",
        files=0,
        size_bytes=0,
    )


def _say(said: Said) -> None:
    # Whoever asked is gone where this fails, and nobody needs the copy.
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def _main(log: Path, copy: Path) -> None:
    try:
        with closing(open_reader(log.parent)) as source:
            manifest = copy_log(source, log, copy, lambda done, total: _say(Said(done=done, total=total)))
    except (OSError, sqlite3.Error) as error:
        _say(Said(error=str(error)))
    else:
        _say(Said(ended=True, manifest=manifest))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))

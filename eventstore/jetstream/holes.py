"""How a mirror takes what was rewritten: holes are filled with what is left, and what an event takes back goes.

Plain functions over the mirror's write connection, in the transaction in which it takes the events.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from eventstore.blocks import DELETE_BEFORE
from eventstore.durable import write_durably
from eventstore.intents import Intent, announce
from eventstore.jetstream.messages import Message, decode
from eventstore.jetstream.rewritten import Files
from eventstore.keeping.cleaning import files_of
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import LogFailed
from runfold.events import EventRedacted, RunArchived

REPLACED = "CREATE TEMP TABLE IF NOT EXISTS replaced (position INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT"
READY = ".rewritten"


def remember(connection: sqlite3.Connection, left: Sequence[tuple[int, bytes]]) -> None:
    connection.executemany("INSERT OR REPLACE INTO temp.replaced VALUES (?, ?)", left)


def fill(connection: sqlite3.Connection, after: int, before: int) -> tuple[list[tuple[int, Message]], int]:
    """What stands between two positions, and the last position there at which nothing does (0: at each something)."""
    rows = connection.execute(
        "SELECT position, content FROM temp.replaced WHERE position > ? AND position < ? ORDER BY position",
        (after, before),
    ).fetchall()
    last = before - 1
    for position, _ in reversed(rows):
        if position != last:
            break
        last -= 1
    return [(position, decode(content, position)) for position, content in rows], last if last > after else 0


def taken_back(connection: sqlite3.Connection, told: Sequence[Message]) -> tuple[list[int], list[str]]:
    """Positions of the log whose messages are to be erased, and runs that are to be shortened, by what events say."""
    positions: list[int] = []
    runs: list[str] = []
    for message in told:
        if message.run_id == SYSTEM_STREAM:
            archived = _trimmed(message)
            if archived is not None:
                runs.append(archived.run_id)
        else:
            positions += [position for position, _ in _left(connection, message)]
    return positions, runs


def redact_told(connection: sqlite3.Connection, message: Message) -> None:
    """What an event says was redacted or cleaned becomes what is left of it. Raises LogFailed."""
    for position, content in _left(connection, message):
        left = decode(content, position)
        held = connection.execute("SELECT hash FROM events WHERE position = ?", (position,)).fetchone()
        if held is None or held[0] != left.hash or left.digest is None:
            raise LogFailed(
                f"what is left of the event at position {position} is not of that event",
                hint="somebody else wrote to the stream beside the log: `runfold verify` says what is wrong",
            )
        connection.execute(
            "UPDATE events SET data = ?, salt = NULL, digest = coalesce(digest, ?) WHERE position = ?",
            (left.data, left.digest, position),
        )


def trim_told(connection: sqlite3.Connection, message: Message, position: int) -> str | None:
    """Take the run that an event of the system stream says is trimmed; its id."""
    archived = _trimmed(message)
    if archived is None:
        return None
    trigger = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_remain'").fetchone()
    connection.execute("DROP TRIGGER IF EXISTS events_remain")
    connection.execute(DELETE_BEFORE, (archived.run_id, position))
    if trigger is not None:
        connection.execute(trigger[0])
    # Not up to the event that closed it: who follows the log stands before that one, and misses nothing.
    summary: Any = archived.summary
    last: Any = summary["position"]
    connection.execute("UPDATE head SET trimmed_to = max(trimmed_to, ?)", (last,))
    return archived.run_id


def announce_files(data: Path, message: Message, event_id: str, files: Files | None) -> None:
    """Make ready what becomes of the machine's own files with the commit of an event."""
    removals = [] if files is None else [f"blobs/{sha256[:2]}/{sha256}" for sha256 in files.removals]
    renames: list[tuple[str, str]] = []
    for name, places in (files.paints if files is not None else {}).items():
        path = data / "runs" / message.run_id / name
        if not path.is_file():
            continue
        content = bytearray(path.read_bytes())
        for offset, length in places:
            length = max(0, min(length, len(content) - offset))
            content[offset : offset + length] = b"*" * length
        write_durably(path.with_name(path.name + READY), bytes(content))
        renames.append((str(path.relative_to(data)) + READY, str(path.relative_to(data))))
    archived = _trimmed(message) if message.run_id == SYSTEM_STREAM else None
    if archived is not None and (data / "runs" / archived.run_id).is_dir():
        removals.append(f"runs/{archived.run_id}")
    if files is not None and files.is_emptied:
        removals += [str(path.relative_to(data)) for path in files_of(data, files.run_id)]
    if renames or removals:
        intent = Intent(run_id=message.run_id, event_id=event_id, renames=tuple(renames), removals=tuple(removals))
        announce(data, intent)


def _left(connection: sqlite3.Connection, message: Message) -> Iterator[tuple[int, bytes]]:
    """The positions that an event of a run takes something from, with what is left there."""
    if message.type == "event_redacted":
        told: Any = _decoded(message, EventRedacted)
        query = (
            "SELECT e.position, r.content FROM temp.replaced r CROSS JOIN events e USING (position)"
            " WHERE e.run_id = ? AND e.version = ?"
        )
        yield from connection.execute(query, (message.run_id, 0 if told is None else told.version)).fetchall()
    elif message.type == "run_archived":
        query = (
            "SELECT e.position, r.content FROM temp.replaced r CROSS JOIN events e USING (position)"
            " WHERE e.run_id = ? AND e.version < ? AND e.data IS NOT NULL"
        )
        yield from connection.execute(query, (message.run_id, message.version)).fetchall()


def _trimmed(message: Message) -> RunArchived | None:
    told: Any = _decoded(message, RunArchived) if message.type == "run_archived" else None
    return told if told is not None and told.counts.get("trimmed") else None


def _decoded(message: Message, kind: Any) -> Any:
    try:
        return None if message.data is None else msgspec.json.decode(message.data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None

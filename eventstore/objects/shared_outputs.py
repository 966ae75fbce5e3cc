"""What commands wrote, for all machines: the output of a turn is a blob of the shared store, named by its digest.

The event that ends a turn says where in `output.log` its output begins, how long it is and its sha256, so any machine
puts the file together from the log and the store, and each part is proved.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import msgspec

from eventstore.blocks import AFTER, OF_RUN
from eventstore.leases import Leases
from eventstore.log_file import open_reader
from eventstore.objects.object_store import ObjectStore
from eventstore.objects.shared_blobs import blob_key, store_of
from eventstore.sqlite3_module import sqlite3
from runfold.errors import Unavailable

TURN_ENDS = frozenset({"turn_completed", "turn_failed", "turn_cancelled"})
CHUNK_BYTES = 8 * 1024 * 1024  # What is longer goes to the store in parts.
SHARED_FILE = "shared.json"
TURNS_MAX = 100_000  # More than a run has.
PIECES_MAX = 100_000  # Of an open turn; ten a second are recorded at most.
PLACES_KNOWN_MAX = 10_000
_ENDED = "type IN ('turn_completed', 'turn_failed', 'turn_cancelled')"
_ENDS = (
    f"SELECT type, data FROM {OF_RUN} WHERE run_id = ? AND {_ENDED} AND data IS NOT NULL"  # noqa: S608
    " ORDER BY block, version LIMIT ?"
)
_NEW_ENDS = (
    f"SELECT position, run_id, type, data FROM events WHERE position > ? AND {_ENDED} AND data IS NOT NULL"  # noqa: S608
    " ORDER BY position LIMIT ?"
)
_LAST_TURN = (
    f"SELECT position, type, data FROM {OF_RUN} WHERE run_id = ? AND (type = 'turn_started' OR {_ENDED})"  # noqa: S608
    " ORDER BY block DESC, version DESC LIMIT 1"
)
_PIECES = (
    f"SELECT data FROM {OF_RUN} WHERE {AFTER} AND type = 'subprocess_output' AND data IS NOT NULL"  # noqa: S608
    " ORDER BY block, version LIMIT ?3"
)
_known: "OrderedDict[tuple[str, int, str, int], None]" = OrderedDict()
"""Places of files that were seen to hold what they should: path, offset, digest, when the file was last changed."""


class Output(msgspec.Struct, frozen=True):
    """Where the output of a turn stands in `output.log`, in bytes, and its digest."""

    offset: int
    size_bytes: int
    sha256: str


def output_of(type_name: str, content: Any) -> Output | None:
    """What an event says of its turn's output; None where there is none, or an old event does not say where."""
    if type_name not in TURN_ENDS or not isinstance(content, dict):
        return None
    ended = cast("dict[str, Any]", content)
    sha256, offset, size = ended.get("output_sha256"), ended.get("output_offset"), ended.get("output_bytes")
    return Output(int(offset), int(size), str(sha256)) if sha256 and offset is not None and size else None


def share_output(store: ObjectStore, path: Path, output: Output) -> bool:
    """Put a turn's output into the store; False where the file does not have it as it was. Raises Unavailable."""
    key = blob_key(output.sha256)
    try:
        digest = hashlib.sha256()
        for chunk in _chunks(path, output):
            digest.update(chunk)
        if digest.hexdigest() != output.sha256:
            return False
        if store.has(key):
            return True
        if output.size_bytes > CHUNK_BYTES:
            store.upload(key, _chunks(path, output))
        else:
            store.create(key, b"".join(_chunks(path, output)))
    except OSError:
        return False
    return True


def _chunks(path: Path, output: Output) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(output.offset)
        left = output.size_bytes
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            yield chunk
            left -= len(chunk)


def bring_output(store: ObjectStore, path: Path, output: Output) -> bool:
    """Write a turn's output from the store to its place in the file; False, and nothing is written, where the store
    does not have it, or something else under its name. Raises Unavailable, OSError."""
    chunks = store.stream(blob_key(output.sha256))
    if chunks is None:
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.TemporaryFile(dir=path.parent) as brought:
        for chunk in chunks:
            digest.update(chunk)
            brought.write(chunk)
        if digest.hexdigest() != output.sha256:
            return False
        brought.seek(0)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.seek(output.offset)
            shutil.copyfileobj(brought, file, CHUNK_BYTES)
    return True


def share_ended(data: Path, run_id: str, ended: Any) -> bool:
    """Give the output of a turn that ends to all machines, where they share a store; False where it was not possible:
    `share_new` does it later."""
    output = output_of(ended.__struct_config__.tag or "", msgspec.to_builtins(ended))
    with suppress(Unavailable):
        store = store_of(data)
        if store is not None and output is not None:
            return share_output(store, data / "runs" / run_id / "output.log", output)
    return False


class Shared(msgspec.Struct, frozen=True):
    """Up to which position of a log this folder has shared all that it had."""

    log_id: str
    upto: int


def share_new(data: Path, *, limit: int = 1_000) -> None:
    """Share what this folder has of outputs of turns that ended since it last did so. Raises Unavailable, OSError."""
    store = store_of(data)
    if store is None:
        return
    note = data / SHARED_FILE
    with closing(open_reader(data)) as connection:
        log_id, head = connection.execute("SELECT log_id, position FROM head").fetchone()
        after = 0
        with suppress(OSError, msgspec.MsgspecError):
            shared = msgspec.json.decode(note.read_bytes(), type=Shared)
            after = shared.upto if shared.log_id == log_id else 0
        rows = connection.execute(_NEW_ENDS, (after, limit)).fetchall()
    for _, run_id, type_name, content in rows:
        output = output_of(type_name, _decoded(content))
        if output is not None:
            share_output(store, data / "runs" / run_id / "output.log", output)
    upto = rows[-1][0] if len(rows) == limit else head
    if upto > after:
        new = note.with_name(f"{SHARED_FILE}.new")
        new.write_bytes(msgspec.json.encode(Shared(log_id, upto)))
        new.replace(note)


def bring_outputs(data: Path, run_id: str) -> None:
    """Put `output.log` of a run of other machines together, as far as they have told: ended turns from the store, and
    of an open one what its events say, at its place; what they skipped is left blank until the turn ends.

    Does nothing where this folder drives the run, or shares no store. Raises Unavailable, OSError.
    """
    store = store_of(data)
    if store is None or _is_driven_here(data, run_id):
        return
    bring_ended(data, run_id)
    with closing(open_reader(data)) as connection:
        for offset, text in _open_turn(connection, run_id):
            _write_at(data / "runs" / run_id / "output.log", offset, text)


def bring_ended(data: Path, run_id: str) -> None:
    """Of a run that another machine began: the output of its ended turns, so that what this one adds stands behind it.

    Raises Unavailable, OSError.
    """
    store = store_of(data)
    if store is None:
        return
    path = data / "runs" / run_id / "output.log"
    with closing(open_reader(data)) as connection:
        for type_name, content in connection.execute(_ENDS, (run_id, TURNS_MAX)).fetchall():
            output = output_of(type_name, _decoded(content))
            if output is not None and not _has(path, output):
                bring_output(store, path, output)


def _is_driven_here(data: Path, run_id: str) -> bool:
    leases = Leases.open_reader(data)
    if leases is None:
        return False
    try:
        now_us = time.time_ns() // 1000
        return any(lease.run_id == run_id and lease.expires_wall_us > now_us for lease in leases.every())
    finally:
        leases.close()


def _has(path: Path, output: Output) -> bool:
    """Whether the file has a turn's output at its place; looked at once for as long as the file stays as it is."""
    try:
        place = (str(path), output.offset, output.sha256, path.stat().st_mtime_ns)
        if place not in _known:
            digest = hashlib.sha256()
            for chunk in _chunks(path, output):
                digest.update(chunk)
            if digest.hexdigest() != output.sha256:
                return False
            _known[place] = None
            while len(_known) > PLACES_KNOWN_MAX:
                _known.popitem(last=False)
    except OSError:
        return False
    return True


def _open_turn(connection: sqlite3.Connection, run_id: str) -> list[tuple[int, bytes]]:
    """What the events of a run's open turn say of its output, and where in the file it stands."""
    row = connection.execute(_LAST_TURN, (run_id,)).fetchone()
    # A step writes to a file of its own until it ends.
    if row is None or row[1] != "turn_started" or _decoded(row[2]).get("step"):
        return []
    rows = connection.execute(_PIECES, (run_id, row[0], PIECES_MAX)).fetchall()
    pieces = (_decoded(content) for (content,) in rows)
    return [(int(piece.get("offset", 0)), str(piece.get("text", "")).encode()) for piece in pieces]


def _write_at(path: Path, offset: int, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if offset > size:
            os.pwrite(descriptor, b" " * (offset - size), size)
        if os.pread(descriptor, len(content), offset) != content:
            os.pwrite(descriptor, content, offset)
    finally:
        os.close(descriptor)


def _decoded(content: bytes | None) -> Any:
    try:
        return {} if content is None else msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}

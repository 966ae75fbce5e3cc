"""Snapshots in the store that machines share: files of one of them as they were at a position of the log.

Each is a folder `snapshots/<log id>/<position>/` with compressed files and, made last, a `manifest.json` that seals
them: without it there is no snapshot. A new machine begins with the newest that holds; what is damaged is passed over.
"""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from eventstore.keeping.copying import copy_log
from eventstore.log_file import LOG_FILE, USER_VERSION, open_reader
from eventstore.objects.object_store import CHUNK_BYTES, ObjectStore
from eventstore.reading import hash_at
from eventstore.sqlite3_module import sqlite3
from runfold.errors import Contended

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = USER_VERSION  # A machine of an older runfold passes over a log that it could not open.
PREFIX = "snapshots"
TRIES = 5


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`hash` is of the log's event at `position`; `files`: name → sha256 of the compressed file."""

    format: int = FORMAT
    log_id: str
    position: int
    hash: str
    made_at_us: int
    files: dict[str, str]

    def key(self, name: str) -> str:
        return f"{PREFIX}/{self.log_id}/{self.position:020d}/{name}"


def put_snapshot(store: ObjectStore, snapshot: Snapshot, files: dict[str, Path]) -> Snapshot:
    """Store files as a snapshot, which is one when this returns. Raises Unavailable, OSError."""
    sealed: dict[str, str] = {}
    for name, path in files.items():
        packed = path.with_name(f"{path.name}.zst")
        _pack(path, packed)
        sealed[name] = _sha256(packed)
        with packed.open("rb") as file:
            store.upload(snapshot.key(f"{name}.zst"), iter(lambda: file.read(CHUNK_BYTES), b""))
        packed.unlink()
    snapshot = msgspec.structs.replace(snapshot, files=sealed)
    store.replace(snapshot.key("manifest.json"), msgspec.json.encode(snapshot))
    return snapshot


def snapshots(store: ObjectStore, log_id: str) -> Iterator[Snapshot]:
    """Those of a log, the newest first; one whose manifest cannot be read, or is another's, is none."""
    for name in reversed(store.folders(f"{PREFIX}/{log_id}")):
        content = store.get(f"{PREFIX}/{log_id}/{name}/manifest.json")
        try:
            snapshot = msgspec.json.decode(content or b"", type=Snapshot)
        except msgspec.MsgspecError:
            continue
        if snapshot.format <= FORMAT and snapshot.log_id == log_id and f"{snapshot.position:020d}" == name:
            yield snapshot


def remove_snapshot(store: ObjectStore, snapshot: Snapshot) -> None:
    """The manifest goes first: half a snapshot is none."""
    store.remove(snapshot.key("manifest.json"))
    for name in snapshot.files:
        store.remove(snapshot.key(f"{name}.zst"))


def bring_file(store: ObjectStore, snapshot: Snapshot, name: str, path: Path) -> bool:
    """Bring a file of a snapshot; False, and nothing is there, where it is missing or damaged.

    Raises Unavailable, OSError.
    """
    chunks = store.stream(snapshot.key(f"{name}.zst")) if name in snapshot.files else None
    if chunks is None:
        return False
    packed = path.with_name(f"{path.name}.zst")
    try:
        with packed.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        if _sha256(packed) != snapshot.files[name]:
            return False
        _unpack(packed, path)
    except (zstd.ZstdError, EOFError):
        path.unlink(missing_ok=True)
        return False
    finally:
        packed.unlink(missing_ok=True)
    return True


def copy_mirror(data: Path, path: Path, *, now_us: int) -> Snapshot:
    """Copy a mirror's log as it is at one moment, while it is written to. Raises Contended, OSError."""
    with closing(open_reader(data)) as source:
        for _ in range(TRIES):
            path.unlink(missing_ok=True)
            copied = copy_log(source, data / LOG_FILE, path)
            if copied is not None:
                return Snapshot(
                    log_id=copied.log_id, position=copied.head, hash=copied.hash, made_at_us=now_us, files={}
                )
    raise Contended("the log was redacted or trimmed again and again while it was copied", hint="try again later")


def is_snapshot_of(path: Path, snapshot: Snapshot) -> bool:
    """Whether a log's file is what its snapshot says it is."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            head: tuple[str, int] = connection.execute("SELECT log_id, position FROM head").fetchone()
            found = hash_at(connection, snapshot.position)
    except (sqlite3.DatabaseError, TypeError):
        return False
    return head == (snapshot.log_id, snapshot.position) and found is not None and found.hex() == snapshot.hash


def _pack(path: Path, packed: Path) -> None:
    with path.open("rb") as source, zstd.open(packed, "wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            target.write(chunk)


def _unpack(packed: Path, path: Path) -> None:
    with zstd.open(packed, "rb") as source, path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            target.write(chunk)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

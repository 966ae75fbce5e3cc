"""What commands wrote, for all machines: the output of a turn is a blob of the shared store, named by its digest.

The event that ends a turn says where in `output.log` its output begins, how long it is and its sha256, so any machine
puts the file together from the log and the store, and each part is proved.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from eventstore.object_store import ObjectStore
from eventstore.shared_blobs import blob_key

TURN_ENDS = frozenset({"turn_completed", "turn_failed", "turn_cancelled"})
CHUNK_BYTES = 8 * 1024 * 1024  # What is longer goes to the store in parts.


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
    """Write a turn's output from the store to its place in the file; False where the store does not have it, or
    something else under its name. Raises Unavailable, OSError."""
    chunks = store.stream(blob_key(output.sha256))
    if chunks is None:
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, place = hashlib.sha256(), output.offset
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.seek(place)
            file.write(chunk[: output.offset + output.size_bytes - place])
            place += len(chunk)
    return digest.hexdigest() == output.sha256

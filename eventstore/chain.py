"""The hash chain of a run and the anchors of the whole log: any later edit, cut or swap shows."""

import hashlib
import struct
from collections.abc import Iterable

_VERSION = b"runfold.v1"
_ANCHOR_VERSION = b"runfold.anchor.v1"
_ABSENT = b"\xff\xff\xff\xff"
_length = struct.Struct(">I").pack
_number = struct.Struct(">q").pack
_anchored = struct.Struct(">qq").pack


def data_digest(salt: bytes, data: bytes) -> bytes:
    """What the chain holds of an event's data; the salt keeps a redacted text from being guessed."""
    return hashlib.sha256(salt + data).digest()


def sent_digest(salt: bytes, sent: bytes) -> bytes:
    """What the log keeps of the digest of what a caller sent: once the salt is gone, nothing can be guessed from it."""
    return hashlib.sha256(salt + sent).digest()


def link(
    previous: bytes,
    *,
    tenant: str,
    run_id: str,
    version: int,
    identity: bytes,
    type_name: str,
    schema: int,
    at_us: int,
    actor: str,
    cause: bytes | None,
    command: bytes | None,
    sent: bytes | None,
    correlation: str,
    digest: bytes,
) -> bytes:
    """The hash of an event after `previous` (empty: the run's first); nothing in it is given by a backend."""
    fields: tuple[bytes | None, ...] = (
        _VERSION,
        previous,
        tenant.encode(),
        run_id.encode(),
        _number(version),
        identity,
        type_name.encode(),
        _number(schema),
        _number(at_us),
        actor.encode(),
        cause,
        command,
        sent,
        correlation.encode(),
        digest,
    )
    # Each field carries its length, so no two different events can read as the same bytes.
    parts = [_ABSENT if field is None else _length(len(field)) + field for field in fields]
    return hashlib.sha256(b"".join(parts)).digest()


def anchor_digest(previous: bytes, rows: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The digest over (position, recorded_at, hash) of all events since the anchor `previous`."""
    digest = hashlib.sha256(_ANCHOR_VERSION + _length(len(previous)) + previous)
    for position, recorded_at_us, event_hash in rows:
        digest.update(_anchored(position, recorded_at_us) + event_hash)
    return digest.digest()

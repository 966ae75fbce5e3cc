"""The hash chain of a run and the anchors of the whole log: any later edit, cut or swap shows."""

import hashlib
import struct
from collections.abc import Iterable

_VERSION = b"runfold.v1"
_ANCHOR_VERSION = b"runfold.anchor.v1"
_ABSENT = b"\xff\xff\xff\xff"
_length = struct.Struct(">I").pack
_number = struct.Struct(">Iq").pack
_two_numbers = struct.Struct(">IqIq").pack
_anchored = struct.Struct(">qq").pack
_START = _length(len(_VERSION)) + _VERSION


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
    names = (tenant.encode(), run_id.encode(), type_name.encode(), actor.encode(), correlation.encode())
    tenant_bytes, run_bytes, type_bytes, actor_bytes, correlation_bytes = names
    # Each field carries its length, so no two different events can read as the same bytes.
    content = b"".join(
        (
            _START,
            _length(len(previous)),
            previous,
            _length(len(tenant_bytes)),
            tenant_bytes,
            _length(len(run_bytes)),
            run_bytes,
            _number(8, version),
            _length(len(identity)),
            identity,
            _length(len(type_bytes)),
            type_bytes,
            _two_numbers(8, schema, 8, at_us),
            _length(len(actor_bytes)),
            actor_bytes,
            _ABSENT if cause is None else _length(len(cause)) + cause,
            _ABSENT if command is None else _length(len(command)) + command,
            _ABSENT if sent is None else _length(len(sent)) + sent,
            _length(len(correlation_bytes)),
            correlation_bytes,
            _length(len(digest)),
            digest,
        )
    )
    return hashlib.sha256(content).digest()


def anchor_digest(previous: bytes, rows: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The digest over (position, recorded_at, hash) of all events since the anchor `previous`."""
    digest = hashlib.sha256(_ANCHOR_VERSION + _length(len(previous)) + previous)
    for position, recorded_at_us, event_hash in rows:
        digest.update(_anchored(position, recorded_at_us) + event_hash)
    return digest.digest()

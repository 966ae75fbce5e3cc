"""The hash chain of a run and the anchors of the whole log: any later edit, cut or swap shows."""

import struct
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256 as _sha256

TEXTS_KEPT_MAX = 4096  # Names of at most 512 bytes.
_VERSION = b"runfold.v1"
_ANCHOR_VERSION = b"runfold.anchor.v1"
_ABSENT = b"\xff\xff\xff\xff"
_NO_ORIGIN = _ABSENT * 3
_length = struct.Struct(">I").pack
_number = struct.Struct(">q").pack
_place = struct.Struct(">qq").pack
_LENGTHS = tuple(_length(number) for number in range(65))  # Of ids and digests, which are 16 and 32 bytes long.
_STARTS = tuple(_length(len(_VERSION)) + _VERSION + length for length in _LENGTHS)


def data_digest(salt: bytes, data: bytes) -> bytes:
    """What the chain holds of an event's data; the salt keeps a redacted text from being guessed."""
    return _sha256(salt + data).digest()


def sent_digest(salt: bytes, sent: bytes) -> bytes:
    """What the log keeps of the digest of what a caller sent: once the salt is gone, nothing can be guessed from it."""
    return _sha256(salt + sent).digest()


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
    # Each field carries its length, so no two different events can read as the same bytes.
    content = b"".join(
        (
            _STARTS[len(previous)],
            previous,
            _of_run(tenant, run_id),
            _number(version),
            _LENGTHS[len(identity)],
            identity,
            _of_type(type_name, schema),
            _number(at_us),
            _text(actor),
            _NO_ORIGIN if cause is command is sent is None else _optional(cause) + _optional(command) + _optional(sent),
            _text(correlation),
            _LENGTHS[len(digest)],
            digest,
        )
    )
    return _sha256(content).digest()


# What the next event mostly has the same is put together once. Each ends with the length of the number after it.
@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _of_run(tenant: str, run_id: str) -> bytes:
    return _text(tenant) + _text(run_id) + _LENGTHS[8]


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _of_type(type_name: str, schema: int) -> bytes:
    return _text(type_name) + _LENGTHS[8] + _number(schema) + _LENGTHS[8]


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _text(text: str) -> bytes:
    content = text.encode()
    return _length(len(content)) + content


def _optional(content: bytes | None) -> bytes:
    return _ABSENT if content is None else _LENGTHS[len(content)] + content


def anchor_digest(previous: bytes, rows: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The digest over (position, recorded_at, hash) of all events since the anchor `previous`."""
    digest = _sha256(_ANCHOR_VERSION + _length(len(previous)) + previous)
    for position, recorded_at_us, event_hash in rows:
        digest.update(_place(position, recorded_at_us) + event_hash)
    return digest.digest()


def anchored(position: int, recorded_at_us: int, event_hash: bytes) -> bytes:
    """What an anchor holds of one event."""
    return _place(position, recorded_at_us) + event_hash


def digest_of_anchored(previous: bytes, content: bytes | bytearray) -> bytes:
    """`anchor_digest` of events of which each is given by `anchored`."""
    return _sha256(_ANCHOR_VERSION + _length(len(previous)) + previous + content).digest()

"""The hash chain of a run and the anchors of the whole log: any later edit, cut or swap shows."""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256 as _sha256
from operator import add
from typing import NamedTuple

TEXTS_KEPT_MAX = 4096  # Names of at most 512 bytes.
_VERSION = b"runfold.v1"
_ANCHOR_VERSION = b"runfold.anchor.v1"
_ABSENT = b"\xff\xff\xff\xff"
_NO_ORIGIN = _ABSENT * 3
_DIGEST_BYTES = 32
_PLACE_BYTES = 16
_length = struct.Struct(">I").pack
_number = struct.Struct(">q").pack
_place = struct.Struct(">qq").pack
_LENGTHS = tuple(_length(number) for number in range(65))  # Of ids and digests, which are 16 and 32 bytes long.
_STARTS = tuple(_length(len(_VERSION)) + _VERSION + length for length in _LENGTHS)


def data_digest(salt: bytes, data: bytes) -> bytes:
    """What the chain holds of an event's data; the salt keeps a redacted text from being guessed."""
    return _sha256(salt + data).digest()


def data_digests(salts: Sequence[bytes], datas: Sequence[bytes]) -> list[bytes]:
    """As `data_digest`, of as many events as there are salts."""
    return [_sha256(content).digest() for content in map(add, salts, datas)]


def sent_digest(salt: bytes, sent: bytes) -> bytes:
    """What the log keeps of the digest of what a caller sent: once the salt is gone, nothing can be guessed from it."""
    return _sha256(salt + sent).digest()


def link(
    previous: bytes,
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
    """The hash of an event after `previous` (empty: the run's first); nothing in it is given by a backend.

    The fields are hashed in the order of the parameters.
    """
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
            _of_actor(actor, correlation)
            if cause is command is sent is None
            else _text(actor) + _optional(cause) + _optional(command) + _optional(sent) + _text(correlation),
            _LENGTHS[len(digest)],
            digest,
        )
    )
    return _sha256(content).digest()


class Shared(NamedTuple):
    """What many events have in common of what is hashed, up to the version, what was sent, and the digest."""

    to_version: bytes
    to_sent: bytes
    to_digest: bytes


def shared(
    *,
    tenant: str,
    run_id: str,
    type_name: str,
    schema: int,
    at_us: int,
    actor: str,
    cause: bytes | None,
    command: bytes | None,
    sent_bytes: int | None,
    correlation: str,
) -> Shared:
    kind = _of_type(type_name, schema) + _number(at_us) + _text(actor) + _optional(cause) + _optional(command)
    return Shared(
        to_version=_of_run(tenant, run_id),
        to_sent=kind + (_ABSENT if sent_bytes is None else _length(sent_bytes)),
        to_digest=_text(correlation) + _LENGTHS[_DIGEST_BYTES],
    )


def links(
    previous: Sequence[bytes],
    commons: Sequence[Shared],
    *,
    versions: Sequence[int],
    ids: Sequence[bytes],
    sents: Sequence[bytes],
    digests: Sequence[bytes],
) -> list[bytes]:
    """As `link`, of many events; `previous`: the hash before each. Raises ValueError where they are not as many."""
    to_versions, to_sents, to_digests = zip(*commons, strict=True)
    count = len(versions)
    contents = zip(
        map(_STARTS.__getitem__, map(len, previous)),
        previous,
        to_versions,
        struct.unpack("8s" * count, struct.pack(f">{count}q", *versions)),
        map(_LENGTHS.__getitem__, map(len, ids)),
        ids,
        to_sents,
        sents,
        to_digests,
        digests,
        strict=True,
    )
    return [_sha256(content).digest() for content in map(b"".join, contents)]


# What the next event mostly has the same is put together once. Each ends with the length of the number after it.
@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _of_run(tenant: str, run_id: str) -> bytes:
    return _text(tenant) + _text(run_id) + _LENGTHS[8]


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _of_type(type_name: str, schema: int) -> bytes:
    return _text(type_name) + _LENGTHS[8] + _number(schema) + _LENGTHS[8]


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _of_actor(actor: str, correlation: str) -> bytes:
    """Who says an event that has no cause and no command, and was not sent."""
    return _text(actor) + _NO_ORIGIN + _text(correlation)


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


def all_anchored(positions: Sequence[int], recorded_at_us: Sequence[int], event_hashes: bytes) -> bytearray:
    """`anchored` of many events, one after the other. Raises ValueError where they are not as many."""
    content = bytearray(len(positions) * (_PLACE_BYTES + _DIGEST_BYTES))
    # Eight bytes a time: two numbers and the four parts of a hash.
    parts, hashes = memoryview(content).cast("q"), memoryview(event_hashes).cast("q")
    for place, numbers in enumerate((positions, recorded_at_us)):
        parts[place::6] = memoryview(struct.pack(f">{len(numbers)}q", *numbers)).cast("q")
    for part in range(4):
        parts[2 + part :: 6] = hashes[part::4]
    return content


def digest_of_anchored(previous: bytes, content: bytes | bytearray) -> bytes:
    """`anchor_digest` of events of which each is given by `anchored`."""
    return _sha256(_ANCHOR_VERSION + _length(len(previous)) + previous + content).digest()

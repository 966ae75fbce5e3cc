"""A part of the log as one sealed object: its events, compressed, and chained to the part before it.

The format is ours: JSON lines in a zstd frame (RFC 8878; `zstd -dc` shows them), the first line the `Segment`, each
other one a row of `events` as an archive has it; after it a frame that zstd skips, with the sha256 of all before it.
"""

import hashlib
import struct
import sys
from collections.abc import Iterable

import msgspec

from eventstore.chain import anchor_digest
from eventstore.keeping.archive import ArchivedEvent, archived_of
from eventstore.whole_rows import WholeRow

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = 1
LEVEL = 6  # A tenth smaller than the default, and still quicker than a disk.
_TAG = b"runfold segment "
_SEAL = struct.pack("<II", 0x184D2A50, len(_TAG) + 32) + _TAG
_encode = msgspec.json.Encoder().encode


class SealedAnchor(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that the log held when the segment was made, in hexadecimal."""

    position: int
    digest: str
    previous: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a log after one position up to another; `number` counts from 1, `events` as they once were.

    `digest` is the anchor over them (docs/log-format.md) after `previous`, that of the segment before. It stays when
    the segment is written anew because events were redacted or trimmed.
    """

    format: int = FORMAT
    log_id: str
    number: int
    after: int
    upto: int
    events: int
    previous: str
    digest: str
    trimmed_to: int
    writer: str
    made_at_us: int
    anchors: tuple[SealedAnchor, ...] = ()


def digest_of(previous: str, rows: Iterable[WholeRow]) -> str:
    places = ((row.position, row.recorded_at_us, row.hash) for row in rows)
    return anchor_digest(bytes.fromhex(previous), places).hex()


def encode_segment(segment: Segment, rows: Iterable[WholeRow]) -> bytes:
    lines = b"".join(_encode(line) + b"\n" for line in (segment, *map(archived_of, rows)))
    content = zstd.compress(lines, LEVEL)
    return content + _SEAL + hashlib.sha256(content).digest()


def decode_segment(content: bytes) -> tuple[Segment, list[WholeRow]]:
    """The segment and its rows. Raises ValueError that says what is wrong."""
    left = len(content) - len(_SEAL) - 32
    if left < 0 or content[left:] != _SEAL + hashlib.sha256(content[:left]).digest():
        raise ValueError("its content does not match its seal")
    try:
        first, *lines = zstd.decompress(content[:left]).splitlines()
        segment = msgspec.json.decode(first, type=Segment)
        if segment.format > FORMAT:
            raise ValueError(f"it is of format {segment.format}, known {FORMAT}: upgrade runfold")
        rows = [msgspec.json.decode(line, type=ArchivedEvent).row() for line in lines]
    except (zstd.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from error
    if len(rows) == segment.events and digest_of(segment.previous, rows) != segment.digest:
        raise ValueError("its events are not those of its digest")
    if len(rows) > segment.events:
        raise ValueError(f"it has {len(rows)} events, and was made of {segment.events}")
    return segment, rows

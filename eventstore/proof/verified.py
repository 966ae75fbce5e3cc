"""What the last whole proof of a data folder came to: kept beside the log, for whoever asks whether it is sound."""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from eventstore.proof.faults import Fault

VERIFIED_FILE = "verified.json"
FAULTS_KEPT_MAX = 20  # Of more than these `runfold verify` tells.


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, by kind, and everything that did not match; times are RFC 3339 UTC.

    `faults_found` counts them all, `faults` are the first of them.
    """

    ok: bool
    looked_at: dict[str, int]
    faults: tuple[Fault, ...]
    head: int
    faults_found: int = 0
    started_at: str = ""
    finished_at: str = ""


_decode = msgspec.json.Decoder(Verified).decode


def keep_verified(data: Path, verified: Verified) -> None:
    """Keep it for others; a folder that cannot be written keeps nothing."""
    kept = msgspec.structs.replace(verified, faults=verified.faults[:FAULTS_KEPT_MAX])
    path = data / VERIFIED_FILE
    coming = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        coming.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
        coming.replace(path)
    except OSError:
        with suppress(OSError):
            coming.unlink()


def read_verified(data: Path) -> Verified | None:
    """What was kept last; None where nothing was, or nothing that can be read."""
    try:
        return _decode((data / VERIFIED_FILE).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None

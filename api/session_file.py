"""Browser sessions kept beside the log, so that nobody logs in again because a server was started anew."""

import contextlib
import os
from pathlib import Path

import msgspec

from runfold.sessions import Session

FILE = "sessions.json"


def read_sessions(data: Path) -> dict[str, Session]:
    """By the sha256 of their secret; none where the file is not there or not ours."""
    try:
        return msgspec.json.decode((data / FILE).read_bytes(), type=dict[str, Session])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def write_sessions(data: Path, sessions: dict[str, Session]) -> None:
    """Whole or not at all, for the owner's eyes; where it cannot be written, sessions last as long as the server."""
    beside = data / f"{FILE}.new"
    with contextlib.suppress(OSError):
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(sessions))
        beside.replace(data / FILE)

"""Anchors wherever they are kept: in the log, in the file beside it, elsewhere; and whether a key signed them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from eventstore.anchoring import ANCHORS_FILE, Anchor
from eventstore.proof.faults import Fault
from eventstore.proof.signing import Verifier
from eventstore.sqlite3_module import sqlite3

PAGE_ROWS = 1_000


def log_anchors(connection: sqlite3.Connection, *, last_only: bool) -> Iterator[Anchor]:
    """The anchors that the log itself holds, in order."""
    query = "SELECT position, digest, previous FROM anchors WHERE position > ? ORDER BY position LIMIT ?"
    after = -1
    if last_only:
        query, after = query.replace("> ?", ">= ?"), _last_anchor(connection)
    while rows := connection.execute(query, (after, PAGE_ROWS)).fetchall():
        for position, digest, previous in rows:
            yield Anchor(position=position, digest=digest.hex(), previous=previous.hex())
        if last_only:
            return
        after = rows[-1][0]


def _last_anchor(connection: sqlite3.Connection) -> int:
    position: int | None = connection.execute("SELECT max(position) FROM anchors").fetchone()[0]
    return 0 if position is None else position


def read_anchors(path: Path) -> list[Anchor]:
    """The anchors of a file that somebody kept, one JSON object a line. Raises msgspec.DecodeError, OSError."""
    return _anchors_in(path.read_bytes())


def anchors_beside(data: Path) -> tuple[list[Anchor], list[Fault]]:
    """The anchors kept beside the log, and what is wrong with their file."""
    path = data / ANCHORS_FILE
    try:
        # A last line that a crash has cut off says nothing: the log has that anchor too.
        return _anchors_in(b"".join(path.read_bytes().rpartition(b"\n")[:2])), []
    except FileNotFoundError:
        return [], []
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return [], [Fault(kind="anchor", message=f"`{ANCHORS_FILE}` cannot be read: {error}")]


def _anchors_in(content: bytes) -> list[Anchor]:
    return [msgspec.json.decode(line, type=Anchor) for line in content.splitlines() if line.strip()]


def check_signatures(anchors: Iterable[Anchor], verifier: Verifier, log_id: str) -> Iterator[Fault]:
    """Anchors that the key did not sign: not at all, or not so, or for another log."""
    for anchor in anchors:
        if not anchor.signature:
            message = f"the anchor at {anchor.position} is not signed"
        elif not verifier.is_signed(anchor, log_id, anchor.signature):
            message = f"the signature of the anchor at {anchor.position} is not of that key, that log and that anchor"
        else:
            continue
        yield Fault(kind="signature", message=message, position=anchor.position)

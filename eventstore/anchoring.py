"""Anchors: each seals all events since the one before it."""

import json

from eventstore.chain import anchor_digest
from eventstore.sqlite3_module import sqlite3

ANCHORED = "SELECT position, recorded_at_us, hash FROM events WHERE position > ? AND position <= ? ORDER BY position"


def write_anchor(connection: sqlite3.Connection, position: int, *, at_least: int) -> str | None:
    """Seal the log up to a position where `at_least` positions are not yet sealed; the line for anchors.jsonl."""
    row = connection.execute("SELECT position, digest FROM anchors ORDER BY position DESC LIMIT 1").fetchone()
    sealed, previous = (0, b"") if row is None else row
    if position - sealed < at_least:
        return None
    digest = anchor_digest(previous, connection.execute(ANCHORED, (sealed, position)))
    connection.execute(
        "INSERT INTO anchors (position, digest, previous) VALUES (?, ?, ?)", (position, digest, previous)
    )
    return json.dumps({"position": position, "digest": digest.hex(), "previous": previous.hex()}) + "\n"

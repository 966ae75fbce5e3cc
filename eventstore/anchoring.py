"""Anchors, which seal all events since the last one, and the check of everything the log says of itself."""

import json

from eventstore.chain import anchor_digest, data_digest, link
from eventstore.sqlite3_module import sqlite3

_ANCHORED = "SELECT position, recorded_at_us, hash FROM events WHERE position > ? AND position <= ? ORDER BY position"
PROBLEMS_MAX = 100


def write_anchor(connection: sqlite3.Connection, position: int, *, at_least: int) -> str | None:
    """Seal the log up to a position where `at_least` positions are not yet sealed; the line for anchors.jsonl."""
    row = connection.execute("SELECT position, digest FROM anchors ORDER BY position DESC LIMIT 1").fetchone()
    sealed, previous = (0, b"") if row is None else row
    if position - sealed < at_least:
        return None
    digest = anchor_digest(previous, connection.execute(_ANCHORED, (sealed, position)))
    connection.execute(
        "INSERT INTO anchors (position, digest, previous) VALUES (?, ?, ?)", (position, digest, previous)
    )
    return json.dumps({"position": position, "digest": digest.hex(), "previous": previous.hex()}) + "\n"


def verify_chain(connection: sqlite3.Connection) -> list[str]:
    """What does not match in the log: links of the runs' chains, heads, anchors. Empty: nothing was altered."""
    problems: list[str] = []
    chains: dict[str, tuple[int, int, bytes]] = {}
    events = connection.execute(
        "SELECT position, run_id, version, id, type, schema, at_us, tenant, actor, cause, command, sent, correlation,"
        " hash, salt, data, digest FROM events ORDER BY position"
    )
    for row in events:
        position, run_id, version, event_hash = row[0], row[1], row[2], row[13]
        _, last_version, previous = chains.get(run_id, (0, 0, b""))
        expected = link(
            previous,
            tenant=row[7],
            run_id=run_id,
            version=last_version + 1,
            identity=row[3],
            type_name=row[4],
            schema=row[5],
            at_us=row[6],
            actor=row[8],
            cause=row[9],
            command=row[10],
            sent=row[11],
            correlation=row[12],
            digest=row[16] if row[15] is None else data_digest(row[14], row[15]),
        )
        if expected != event_hash and len(problems) < PROBLEMS_MAX:
            problems.append(f"event {position} of `{run_id}` does not match its hash")
        chains[run_id] = (position, version, event_hash)
    heads = {row[0]: tuple(row[1:]) for row in connection.execute("SELECT run_id, position, version, hash FROM heads")}
    for run_id in chains.keys() | heads.keys():
        if chains.get(run_id) != heads.get(run_id) and len(problems) < PROBLEMS_MAX:
            problems.append(f"the last event of `{run_id}` is not the one the log remembers")
    return problems + _verify_anchors(connection)


def _verify_anchors(connection: sqlite3.Connection) -> list[str]:
    sealed, digest = 0, b""
    for position, stored, previous in connection.execute("SELECT * FROM anchors ORDER BY position").fetchall():
        expected = anchor_digest(digest, connection.execute(_ANCHORED, (sealed, position)))
        if previous != digest or stored != expected:
            return [f"events {sealed + 1} to {position} do not match the anchor at {position}"]
        sealed, digest = position, stored
    return []

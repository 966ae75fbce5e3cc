"""A folder with some runs, the proof of it, and ways to alter it that somebody could think of."""

import random
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from eventstore.ledger import Ledger
from eventstore.log_file import open_reader
from eventstore.objects import blobs
from eventstore.proof.anchors import anchors_beside
from eventstore.proof.attachments import Attachments
from eventstore.proof.faults import Fault
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.drift import Drift
from projections.engine.views import Views
from runfold.commands import Complete, Observe, OpenReported
from runfold.envelope import run_id_of
from runfold.events import ArtifactStored, FileWritten, Message, RunQueued

RUNS = 6
BATCHES = 4
Tamper = Callable[[Path, random.Random], str]


async def write_log(data: Path) -> None:
    """Some runs, side by side; the log is closed between the batches, so there are several anchors."""
    sha256 = blobs.put(data, b"the picture")
    run_ids = [run_id_of(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(RUNS)]
    for batch in range(BATCHES):
        log = await SqliteLog.open(data)
        ledger = Ledger(log)
        for number, run_id in enumerate(run_ids):
            wishes: list[Any] = [OpenReported(queued=RunQueued(driver="reported", title=f"run {number}"))] * (not batch)
            wishes.append(
                Observe(events=(Message(text=f"batch {batch}"), FileWritten(path=f"{batch}.py", bytes=batch)))
            )
            if batch == 1:
                wishes.append(
                    Observe(events=(ArtifactStored(artifact_id=str(number), name="a", sha256=sha256, size_bytes=11),))
                )
            if batch == BATCHES - 1 and number % 2:
                wishes.append(Complete())
            for wish in wishes:
                await ledger.execute(run_id, wish, command_id=str(uuid.uuid4()), actor="user:a", tenant="default")
        await log.close()
    views = Views.open(data)
    views.refresh()
    views.close()


def find(data: Path) -> list[Fault]:
    """Everything that is found, as `runfold verify` does."""
    try:
        log = open_reader(data)
    except Exception as error:
        return [Fault(kind="file", message=str(error))]
    try:
        beside, unreadable = anchors_beside(data)
        proof = Proof(log)
        return [
            *unreadable,
            *proof.faults(anchors=beside),
            *Attachments(log, data).faults(upto=proof.head),
            *Drift(log, data).faults(),
        ]
    except sqlite3.DatabaseError as error:
        return [Fault(kind="file", message=str(error))]
    finally:
        log.close()


def edit(data: Path) -> sqlite3.Connection:
    """Somebody with the file and SQLite's shell; the guards against accidents are put back when he has finished."""
    connection = sqlite3.connect(data / "log.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_stay")
    connection.execute("DROP TRIGGER events_remain")
    return connection


def leave(connection: sqlite3.Connection) -> None:
    schema = (Path(__file__).parent.parent / "eventstore" / "schema.sql").read_text()
    connection.executescript(schema[schema.index("CREATE TRIGGER events_stay") :])
    connection.close()


def damage_table(path: Path, name: str) -> None:
    """The disk gives back nothing of the page with which a table begins."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


def any_position(connection: sqlite3.Connection, chance: random.Random) -> int:
    return int(chance.choice(connection.execute("SELECT position FROM events").fetchall())[0])


def tamper_data(data: Path, chance: random.Random) -> str:
    connection = edit(data)
    position = any_position(connection, chance)
    connection.execute("UPDATE events SET data = ? WHERE position = ?", (b'{"text":"altered"}', position))
    leave(connection)
    return f"data of {position}"


def tamper_column(data: Path, chance: random.Random) -> str:
    connection = edit(data)
    position = any_position(connection, chance)
    column, value = chance.choice(
        [
            ("type", "message_"), ("tenant", "other"), ("actor", "user:mallory"), ("at_us", 5), ("schema", 7),
            ("correlation", "x"), ("command", uuid.uuid4().bytes), ("cause", uuid.uuid4().bytes),
            ("id", uuid.uuid4().bytes), ("salt", b"0" * 16), ("hash", b"0" * 32), ("recorded_at_us", 5),
            ("run_id", "r_other"), ("sent", b"0" * 32),
        ]
    )  # fmt: skip
    connection.execute(f"UPDATE events SET {column} = ? WHERE position = ?", (value, position))
    leave(connection)
    return f"{column} of {position}"


def tamper_delete(data: Path, chance: random.Random) -> str:
    connection = edit(data)
    position = any_position(connection, chance)
    connection.execute("DELETE FROM events WHERE position = ?", (position,))
    leave(connection)
    return f"deleted {position}"


def tamper_swap(data: Path, chance: random.Random) -> str:
    """Two events change places in the log; their runs' chains are untouched where they are of different runs."""
    connection = edit(data)
    first, second = any_position(connection, chance), any_position(connection, chance)
    while first == second:
        second = any_position(connection, chance)
    for before, after in ((first, -1), (second, first), (-1, second)):
        connection.execute("UPDATE events SET position = ? WHERE position = ?", (after, before))
        connection.execute("UPDATE heads SET position = ? WHERE position = ?", (after, before))
    leave(connection)
    return f"swapped {first} and {second}"


def tamper_truncate(data: Path, chance: random.Random) -> str:
    """The newest events go, and everything in the log that remembers them, too."""
    connection = edit(data)
    last = max(1, any_position(connection, chance) - 1)
    connection.execute("DELETE FROM events WHERE position > ?", (last,))
    connection.execute("DELETE FROM heads")
    connection.execute(
        "INSERT INTO heads SELECT run_id, position, version, hash FROM events AS e WHERE version ="
        " (SELECT max(version) FROM events WHERE run_id = e.run_id)"
    )
    connection.execute("DELETE FROM anchors WHERE position > ?", (last,))
    connection.execute("UPDATE head SET position = ?", (last,))
    leave(connection)
    return f"truncated to {last}"


def tamper_run(data: Path, chance: random.Random) -> str:
    """A whole run goes, and what remembers it."""
    connection = edit(data)
    run_id = chance.choice(connection.execute("SELECT run_id FROM heads").fetchall())[0]
    connection.execute("DELETE FROM events WHERE run_id = ?", (run_id,))
    connection.execute("DELETE FROM heads WHERE run_id = ?", (run_id,))
    leave(connection)
    return f"removed {run_id}"


def tamper_insert(data: Path, chance: random.Random) -> str:
    connection = edit(data)
    run_id, version, position = chance.choice(
        connection.execute("SELECT run_id, version, position FROM heads").fetchall()
    )
    head = connection.execute("SELECT position FROM head").fetchone()[0]
    connection.execute(
        "INSERT INTO events SELECT ?, run_id, ?, ?, type, schema, at_us, recorded_at_us, tenant, actor, cause, command,"
        " sent, correlation, salt, data, digest, hash FROM events WHERE position = ?",
        (head + 1, version + 1, uuid.uuid4().bytes, position),
    )
    connection.execute("UPDATE head SET position = position + 1")
    connection.execute("UPDATE heads SET position = ?, version = version + 1 WHERE run_id = ?", (head + 1, run_id))
    leave(connection)
    return f"inserted {head + 1}"


def tamper_anchor(data: Path, chance: random.Random) -> str:
    connection = edit(data)
    connection.execute(
        "UPDATE anchors SET digest = ? WHERE position = (SELECT max(position) FROM anchors)", (b"0" * 32,)
    )
    leave(connection)
    return "anchor"


def tamper_blob(data: Path, chance: random.Random) -> str:
    path = next((data / "blobs").glob("??/*"))
    if chance.random() < 0.5:
        path.unlink()
        return "removed blob"
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return "flipped blob"


def tamper_view(data: Path, chance: random.Random) -> str:
    connection = sqlite3.connect(data / "views.1.db", isolation_level=None)
    change = chance.choice(
        [
            "UPDATE runs SET status = 'failed' WHERE rowid = 2",
            "UPDATE runs SET title = 'x' WHERE rowid = 1",
            "DELETE FROM runs WHERE rowid = 3",
            "UPDATE history SET to_status = 'failed' WHERE position = (SELECT max(position) FROM history)",
            "DELETE FROM history WHERE position = (SELECT min(position) FROM history)",
        ]
    )
    connection.execute(change)
    connection.close()
    return change


def tamper_blocks(data: Path, chance: random.Random) -> str:
    """What says where the events of a run are: wrong, or gone."""
    connection = edit(data)
    run_id, block = chance.choice(connection.execute("SELECT run_id, block FROM run_blocks").fetchall())
    change = chance.choice(
        [
            f"DELETE FROM run_blocks WHERE run_id = '{run_id}' AND block = {block}",
            "DELETE FROM run_blocks",
            f"UPDATE run_blocks SET run_id = 'r_other' WHERE run_id = '{run_id}' AND block = {block}",
            f"UPDATE run_blocks SET block = {chance.choice([-1, 7, 2**62])} WHERE run_id = '{run_id}'",
            f"INSERT INTO run_blocks VALUES ('{run_id}', {chance.choice([-(2**63), -1, 7, 2**63 - 1])})",
            "INSERT INTO run_blocks VALUES ('r_other', 0)",
            "DROP TABLE run_blocks; CREATE TABLE run_blocks (run_id, block); INSERT INTO run_blocks VALUES (NULL, '')",
            "DROP INDEX events_by_block",
            "DROP TRIGGER events_are_found",
        ]
    )
    connection.executescript(change)
    leave(connection)
    return change


def tamper_index(data: Path, chance: random.Random) -> str:
    """An index that leaves out some events, under the words of one that has them all."""
    connection = edit(data)
    (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_by_block'").fetchone()
    position = any_position(connection, chance)
    connection.executescript(f"DROP INDEX events_by_block; {sql} WHERE position <> {position}")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'events_by_block'", (sql,))
    leave(connection)
    return f"`events_by_block` without {position}"


TAMPERS: tuple[Tamper, ...] = (
    tamper_data, tamper_column, tamper_delete, tamper_swap, tamper_truncate, tamper_run, tamper_insert, tamper_anchor,
    tamper_blob, tamper_view, tamper_blocks, tamper_index,
)  # fmt: skip

"""`verify` names whatever was altered: in the log, beside it, and in the views."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore import blobs
from eventstore.attachments import Attachments
from eventstore.faults import Fault
from eventstore.framing import Framing
from eventstore.ledger import Ledger
from eventstore.reading import open_reader, read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.verifying import Proof, anchors_beside, read_anchors
from projections.drift import Drift
from projections.views import Views
from runfold.commands import Complete, Observe, OpenReported
from runfold.envelope import NewEvent, run_id_of
from runfold.errors import Damaged, RunfoldError
from runfold.events import ArtifactStored, FileWritten, Message, RunQueued, TurnCompleted, encode_data
from tests.served import serving

RUNS = 6
BATCHES = 4
TAMPERINGS = 200
FRESH = {"stale": False, "views_position": 0}
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


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    await write_log(folder)
    return folder


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


TAMPERS: tuple[Tamper, ...] = (
    tamper_data, tamper_column, tamper_delete, tamper_swap, tamper_truncate, tamper_run, tamper_insert, tamper_anchor,
    tamper_blob, tamper_view,
)  # fmt: skip


def test_a_sound_folder_has_no_fault(data: Path) -> None:
    assert find(data) == []


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a server tells of a log: by run, None where it refuses; `streamed` as far as it goes."""

    events: dict[str, Any]
    snapshots: dict[str, Any]
    past: dict[str, Any]
    streamed: dict[str | None, bytes]
    is_ready: bool


async def say(data: Path, run_ids: list[str]) -> Said | None:
    """Everything that a server just started on the folder says; None where it refuses to start."""
    try:
        async with serving(data) as served:

            async def answer(path: str) -> Any:
                response = await served.ask("GET", path)
                return await response.json() if response.status == 200 else None

            streamed: dict[str | None, bytes] = {}
            for stream in (None, *run_ids):
                after, parts = 0, [b""]
                with suppress(RunfoldError):
                    while (
                        page := await served.log.framed(after=after, framing=Framing(), stream=stream)
                    ).scanned_to > after:
                        after = page.scanned_to
                        parts.append(page.content)
                streamed[stream] = b"".join(parts)
            return Said(
                streamed=streamed,
                events={run_id: await answer(f"/api/runs/{run_id}/events?limit=200") for run_id in run_ids},
                snapshots={run_id: await answer(f"/api/runs/{run_id}") for run_id in run_ids},
                past={run_id: await answer(f"/api/runs/{run_id}?at=2100-01-01") for run_id in run_ids},
                is_ready=(await answer("/readyz"))["status"] == "ready",
            )
    except (RunfoldError, sqlite3.DatabaseError):
        return None


def wrong(said: Said | None, true: Said, *, is_view: bool) -> list[str]:
    """What was told that is not so."""
    if said is None:
        return []
    asked = [("events", said.events, true.events), ("past", said.past, true.past)]
    if not is_view:
        asked.append(("snapshot", said.snapshots, true.snapshots))
    found = [
        f"{name} of {run_id}"
        for name, told, known in asked
        for run_id, answer in told.items()
        # What is shown as it was before the alteration says that it is stale.
        if answer is not None and {**answer, **FRESH} != {**known[run_id], **FRESH}
    ]
    return found + [f"stream of {name}" for name, it in said.streamed.items() if not true.streamed[name].startswith(it)]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_each_of_two_hundred_random_tamperings_is_found_and_nothing_wrong_is_served(
    data: Path, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run_ids = [run_id_of(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(RUNS)]
    true = await say(data, run_ids)
    missed: list[str] = []
    served: list[str] = []

    assert true is not None
    assert true.is_ready
    for number in range(TAMPERINGS):
        copy = tmp_path / f"copy {number}"
        shutil.copytree(data, copy)
        tamper = TAMPERS[number % len(TAMPERS)]
        what = tamper(copy, chance)
        served += [f"{what}: {it}" for it in wrong(await say(copy, run_ids), true, is_view=tamper is tamper_view)]
        if not find(copy):
            missed.append(what)
        shutil.rmtree(copy)

    assert missed == [], f"seed {seed}"
    assert served == [], f"seed {seed}"


@pytest.mark.slow
def test_a_flipped_bit_of_the_file_is_found_wherever_it_changes_what_is_read(data: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = open_reader(data)
    true = [event.data for event in read_page(log).events]
    log.close()
    unnoticed: list[int] = []

    for _ in range(60):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        content = bytearray((copy / "log.db").read_bytes())
        place = chance.randrange(100, len(content))
        content[place] ^= 1 << chance.randrange(8)
        (copy / "log.db").write_bytes(content)
        if not find(copy):
            log = open_reader(copy)
            if [event.data for event in read_page(log).events] != true:
                unnoticed.append(place)
            log.close()
        shutil.rmtree(copy)

    assert unnoticed == [], f"seed {seed}"


async def test_a_damaged_run_is_refused_and_told_and_the_others_go_on(data: Path) -> None:
    tamper_of_one = edit(data)
    damaged, other = (row[0] for row in tamper_of_one.execute("SELECT run_id FROM events WHERE position IN (9, 1)"))
    tamper_of_one.execute("UPDATE events SET actor = 'user:mallory' WHERE run_id = ? AND version = 2", (damaged,))
    leave(tamper_of_one)

    async with serving(data) as served:
        refused = await served.ask("GET", f"/api/runs/{damaged}/events")
        problem = await refused.json()
        written = await served.report(damaged, {"type": "message", "data": {"text": "more"}})
        streams = [await served.ask("GET", path) for path in (f"/api/runs/{damaged}/stream", "/api/stream")]
        others = [await served.ask("GET", f"/api/runs/{other}/{path}") for path in ("events", "history")]
        more = await served.report(other, {"type": "message", "data": {"text": "more"}})
        ready = await (await served.ask("GET", "/readyz")).json()

    assert (refused.status, problem["code"], problem["run_id"]) == (500, "damaged", damaged)
    assert "does not match its hash" in problem["detail"]
    assert "runfold verify" in problem["hint"]
    assert [answer.status for answer in (written, *streams)] == [500, 500, 500]
    assert [answer.status for answer in (*others, more)] == [200, 200, 200]
    assert (ready["status"], ready["damaged"]) == ("degraded", 1)


async def test_a_log_that_was_cut_is_not_opened_and_its_folder_stays_as_it_is(data: Path) -> None:
    tamper_truncate(data, random.Random(3))
    before = (data / "log.db").read_bytes()

    with pytest.raises(Damaged, match="an anchor beside it was made at") as error:
        await SqliteLog.open(data)

    assert "restore a backup" in error.value.hint
    assert (data / "log.db").read_bytes() == before


def test_an_edited_event_is_named_with_its_run_and_position(data: Path) -> None:
    connection = edit(data)
    run_id = connection.execute("SELECT run_id FROM events WHERE position = 9").fetchone()[0]
    connection.execute("UPDATE events SET data = ? WHERE position = 9", (b'{"text":"altered"}',))
    leave(connection)

    first = find(data)[0]

    assert (first.kind, first.run_id, first.position) == ("event", run_id, 9)


@pytest.mark.parametrize("column", ["type = CAST(type AS BLOB)", "hash = 'text'", "at_us = 'late'", "salt = NULL"])
def test_a_value_of_another_kind_is_named_and_ends_no_proof(data: Path, column: str) -> None:
    connection = edit(data)
    # What a flipped bit does to a row, STRICT would refuse to a statement.
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = 'events'")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute(f"UPDATE events SET {column} WHERE position = 9")
    connection.close()

    assert ("event", 9) in [(fault.kind, fault.position) for fault in find(data)]


def test_a_swapped_row_of_a_view_is_named(data: Path) -> None:
    connection = sqlite3.connect(data / "views.1.db", isolation_level=None)
    run_id = connection.execute("SELECT run_id FROM runs WHERE rowid = 1").fetchone()[0]
    connection.execute("UPDATE runs SET status = 'cancelled' WHERE run_id = ?", (run_id,))
    connection.close()

    fault, *of_counts = find(data)

    assert fault.kind == "view"
    assert fault.run_id == run_id
    assert "differs from its history in status" in fault.message
    assert of_counts
    assert all("`run_counts`" in other.message for other in of_counts)


def test_a_guard_that_was_taken_away_is_told(data: Path) -> None:
    edit(data).close()

    assert {fault.message for fault in find(data)} == {
        "`events_stay` in the log's file is missing",
        "`events_remain` in the log's file is missing",
    }


async def test_a_log_that_grows_meanwhile_is_sound(data: Path) -> None:
    reader = open_reader(data)
    proof = Proof(reader)
    log = await SqliteLog.open(data)
    run_id = read_page(reader).events[0].run_id
    await Ledger(log).execute(
        run_id, Observe(events=(Message(text="later"),)), command_id=str(uuid.uuid4()), actor="user:a", tenant="default"
    )

    faults = list(proof.faults())

    assert faults == []
    reader.close()
    await log.close()


def test_an_anchor_kept_elsewhere_shows_a_log_that_was_cut_and_sealed_anew(data: Path, tmp_path: Path) -> None:
    kept = read_anchors(data / "anchors.jsonl")
    (data / "anchors.jsonl").unlink()
    shutil.rmtree(data / "blobs")
    tamper_truncate(data, random.Random(3))
    reader = open_reader(data)

    faults = list(Proof(reader).faults(anchors=kept))

    reader.close()
    assert any(fault.kind == "anchor" and "an anchor was made at" in fault.message for fault in faults)


@pytest.mark.slow
def test_the_command_tells_with_its_exit_code(data: Path, tmp_path: Path) -> None:
    def verify(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "runfold", "--data", str(data), "verify", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    kept = shutil.copy(data / "anchors.jsonl", tmp_path / "kept.jsonl")
    sound = verify("--json", "--anchor", str(kept))
    tamper_view(data, random.Random(1))
    drifted = verify()
    tamper_data(data, random.Random(1))
    altered = verify("--only", "log", "--json")

    assert sound.returncode == 0, sound.stderr
    assert json.loads(sound.stdout)["ok"] is True
    assert json.loads(sound.stdout)["looked_at"]["events"] == json.loads(sound.stdout)["head"]
    assert drifted.returncode == 1
    assert "runfold rebuild" in drifted.stderr
    assert altered.returncode == 1
    assert json.loads(altered.stdout)["faults"][0]["kind"] == "event"


async def test_output_of_turns_side_by_side_is_proved_in_whatever_order_they_ended(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    events = [
        NewEvent(
            id=str(uuid.uuid4()),
            type="turn_completed",
            data=encode_data(TurnCompleted(turn=turn, output_bytes=2, output_sha256=hashlib.sha256(said).hexdigest())),
            at_us=1,
            tenant="default",
            actor="worker:a",
        )
        for turn, said in ((1, b"aa"), (2, b"bb"))
    ]
    await log.append("r_a", events, expected=0)
    await log.close()
    output = tmp_path / "runs" / "r_a" / "output.log"
    output.parent.mkdir(parents=True)
    reader = open_reader(tmp_path)

    output.write_bytes(b"bbaa")
    sound = list(Attachments(reader, tmp_path).faults(upto=2))
    output.write_bytes(b"bbxa")
    altered = list(Attachments(reader, tmp_path).faults(upto=2))

    reader.close()
    assert sound == []
    assert [(fault.kind, fault.position) for fault in altered] == [("output", 1)]

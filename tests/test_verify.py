"""`verify` names whatever was altered: in the log, beside it, and in the views."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from eventstore.ledger import Ledger
from eventstore.log_file import open_reader
from eventstore.proof.anchors import anchors_beside, read_anchors
from eventstore.proof.attachments import Attachments
from eventstore.proof.verifying import Proof
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Observe
from runfold.envelope import NewEvent
from runfold.events import Message, TurnCompleted, encode_data
from tests.contract.events import new_event
from tests.tampering import edit, find, leave, tamper_data, tamper_truncate, tamper_view, write_log
from tests.terminal import record, runfold


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    await write_log(folder)
    return folder


def test_a_sound_folder_has_no_fault(data: Path) -> None:
    assert find(data) == []


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


@pytest.mark.parametrize(
    ("change", "type_name"),
    [
        ("UPDATE runs SET status = 'running' WHERE run_id = ?", "run_completed"),
        ("UPDATE runs SET title = 'another' WHERE run_id = ?", "run_queued"),
        ("DELETE FROM runs WHERE run_id = ?", "run_queued"),
    ],
    ids=["as it was before", "as it never was", "that is missing"],
)
def test_the_event_from_which_on_a_row_differs_is_named(data: Path, change: str, type_name: str) -> None:
    reader = open_reader(data)
    ended = next(event for event in reversed(read_page(reader).events) if event.type == "run_completed")
    connection = sqlite3.connect(data / "views.1.db", isolation_level=None)
    connection.execute(change, (ended.run_id,))
    connection.close()

    fault = find(data)[0]

    first = next(event for event in read_page(reader).events if (event.run_id, event.type) == (ended.run_id, type_name))
    reader.close()
    assert (fault.kind, fault.run_id, fault.position) == ("view", ended.run_id, first.position)
    assert fault.message.endswith(f", from event {first.position} on")


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


@pytest.mark.parametrize("cut", [1, 10, 200, 10_000])
async def test_a_line_of_an_anchor_that_a_crash_has_cut_off_spoils_no_later_one(data: Path, cut: int) -> None:
    beside = data / "anchors.jsonl"
    beside.write_bytes(beside.read_bytes()[:-cut])
    before, _ = anchors_beside(data)

    added: list[int] = []
    for number in range(2):
        log = await SqliteLog.open(data)
        added.append((await log.append(f"r_{number}", [new_event()], expected=0)).last)
        await log.close()

    after, unreadable = anchors_beside(data)
    assert unreadable == []
    assert after[:-2] == before
    assert [anchor.position for anchor in after[-2:]] == added
    assert find(data) == []


@pytest.mark.slow
def test_output_that_no_turn_wrote_is_named(tmp_path: Path) -> None:
    record(tmp_path)
    output = next(tmp_path.glob("runs/*/output.log"))
    sound = runfold(tmp_path, "verify", "--only", "blobs")
    with output.open("ab") as file:
        file.write(b"and all tests passed\n")

    longer = runfold(tmp_path, "verify", "--only", "blobs")

    assert sound.returncode == 0, sound.stdout
    assert longer.returncode == 1
    assert f"`output.log` of `{output.parent.name}` has 21 bytes behind what its turns wrote" in longer.stdout


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


@pytest.mark.slow
def test_each_run_and_each_anchor_is_counted_once(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept.jsonl"
    record(data)
    record(data)
    assert runfold(data, "token", "create", "--role", "viewer").returncode == 0
    anchors = runfold(data, "anchors", "--all").stdout
    kept.write_text(anchors)

    counts = json.loads(runfold(data, "verify", "--json", "--anchor", str(kept)).stdout)["looked_at"]
    copied = json.loads(runfold(data, "backup", "--json", str(tmp_path / "copy")).stdout)

    assert (counts["runs"], counts["anchors"]) == (2, len(anchors.splitlines()))
    assert (copied["runs"], copied["events"]) == (2, counts["events"])


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

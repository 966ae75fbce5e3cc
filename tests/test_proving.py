"""The proof in the background: a server proves its folder by itself, and says everywhere what it found."""

import json
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.proof.verified import read_verified
from eventstore.sqlite3_module import sqlite3
from tests.leaving import are_gone, handles_of
from tests.served import VIEWER, serving
from tests.terminal import first_line, read, ready, record, runfold, started, wait_for_word

PATIENCE_SECONDS = 60


def alter(data: Path) -> None:
    """Change a row of a view, as a disk or a person could."""
    with closing(sqlite3.connect(data / "views.1.db")) as views, views:
        views.execute("UPDATE runs SET title = 'another'")


async def test_readiness_and_the_admins_page_tell_the_last_proof(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.open_run()
        before = await (await server.client.get("/readyz")).json()
        (tmp_path / "verified.json").write_text(
            '{"ok":false,"looked_at":{"events":2},"faults":[{"kind":"event","message":"secret words"}],"head":2,'
            '"faults_found":1,"started_at":"2026-01-01T00:00:00Z","finished_at":"2026-01-01T00:00:01Z"}'
        )
        after = await (await server.client.get("/readyz")).json()
        told = await (await server.ask("GET", "/api/admin/verified")).json()
        refused = await server.ask("GET", "/api/admin/verified", token=VIEWER)

    assert (before["status"], before["verified"]) == ("ready", None)
    assert after["status"] == "degraded"
    assert {name: after["verified"][name] for name in ("ok", "faults", "position")} == {
        "ok": False, "faults": 1, "position": 2,
    }  # fmt: skip
    assert "secret" not in json.dumps(after)
    assert told["verified"]["faults"][0]["message"] == "secret words"
    assert refused.status == 403


@pytest.mark.slow
def test_a_whole_proof_is_kept_and_doctor_tells_it(tmp_path: Path) -> None:
    record(tmp_path)
    assert "not proved yet" in runfold(tmp_path, "doctor").stdout

    runfold(tmp_path, "verify", "--only", "log")
    assert read_verified(tmp_path) is None
    runfold(tmp_path, "verify")
    sound = runfold(tmp_path, "doctor")
    alter(tmp_path)
    runfold(tmp_path, "verify", "--gently")
    unsound = runfold(tmp_path, "doctor")

    assert (sound.returncode, "proof: sound up to position" in sound.stdout) == (0, True)
    assert (unsound.returncode, "differs from its history in title" in unsound.stdout) == (1, True)


@pytest.mark.slow
def test_a_server_proves_its_folder_by_itself_and_says_what_it_found(tmp_path: Path) -> None:
    record(tmp_path)
    with started(tmp_path, "up", "--port", "0", RUNFOLD_VERIFY_EVERY_SECONDS="1") as server:
        url = first_line(server).partition("/login")[0]
        wait_for_word(server, "folder is sound")
        sound = ready(url)
        alter(tmp_path)
        wait_for_word(server, "folder is not sound")
        unsound = ready(url)
        head = read(tmp_path, "ps")["items"][0]["position"]

    assert sound["verified"]["ok"]
    assert sound["verified"]["position"] >= head
    assert (unsound["status"], unsound["verified"]["faults"]) == ("degraded", 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfds")
def test_a_proof_ends_with_the_server_that_was_killed(tmp_path: Path) -> None:
    record(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with started(tmp_path, "up", "--port", "0", RUNFOLD_VERIFY_EVERY_SECONDS="1") as server:
        first_line(server)
        pipe.replace(tmp_path / "anchors.jsonl")  # No proof goes on past it.
        with (tmp_path / "anchors.jsonl").open("wb"):  # Opened once a proof reads it.
            handles = handles_of(children_of(server.pid))
            server.kill()
            gone = are_gone(handles, PATIENCE_SECONDS)

    assert len(handles) == 1
    assert gone


def children_of(pid: int) -> list[int]:
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for children in found for child in children]

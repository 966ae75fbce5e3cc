"""Every command either goes through the server that RUNFOLD_URL names, or says on which machine to run it."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cli.main import COMMANDS, group
from runfold.errors import NotAllowed, Unavailable
from tests.terminal import first_line, read, runfold, started

NOWHERE = "http://127.0.0.1:9"  # The port of `discard`: nobody listens there.
# What needs the folder itself, with what it takes.
ON_ITS_MACHINE: dict[str, list[str]] = {
    "sql": ["SELECT 1"],
    "backup": ["FOLDER"],
    "restore": ["FOLDER"],
    "anchors": [],
    "verify": [],
    "import": ["FILE"],
    "ingest": [],
    "recover": [],
    "export": ["r_x", "FOLDER/x"],
    "clean": [],
    "redact": ["r_x", "--text", "a"],
    "rebuild": [],
    "skip": ["runs", "1"],
}
# What is about this machine or this folder by its very name, or about no run at all.
HERE = {"up", "worker", "log", "init", "check", "doctor", "demo", "emit", "completion"}
TAKES: dict[str, list[str]] = {
    "run": ["--workflow", "w"],
    "ps": [],
    "costs": [],
    "audit": [],
    "approvals": [],
    "diff": ["r_x", "r_y"],
    "note": ["r_x", "n"],
    "label": ["r_x", "a=b"],
    "step": ["start", "r_x", "a"],
    "token": ["list"],
}
THROUGH_IT = sorted(set(COMMANDS) - HERE - set(ON_ITS_MACHINE))


def call(monkeypatch: pytest.MonkeyPatch, data: Path, name: str, arguments: list[str]) -> None:
    monkeypatch.setenv("RUNFOLD_URL", NOWHERE)
    monkeypatch.setenv("RUNFOLD_DATA", str(data))
    monkeypatch.chdir(data)
    (data / "file").write_text("{}")
    places = {"FOLDER": str(data), "FOLDER/x": str(data / "x"), "FILE": str(data / "file")}
    group.main([name, *(places.get(it, it) for it in arguments)], prog_name="runfold", standalone_mode=False)


@pytest.mark.parametrize("name", THROUGH_IT)
def test_a_command_about_runs_asks_the_server_and_touches_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with pytest.raises(Unavailable, match=f"the server at {NOWHERE} does not answer"):
        call(monkeypatch, tmp_path, name, TAKES.get(name, ["r_x"]))

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ON_ITS_MACHINE)
def test_a_command_about_the_folder_says_on_which_machine_to_run_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with pytest.raises(NotAllowed, match=f"`runfold {name}` works on the data folder") as refusal:
        call(monkeypatch, tmp_path, name, ON_ITS_MACHINE[name])

    assert refusal.value.hint == "run it on 127.0.0.1, without RUNFOLD_URL"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_run_is_driven_by_hand_through_a_server(tmp_path: Path) -> None:
    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]

        def say(*arguments: str) -> str:
            done = runfold(tmp_path, *arguments, RUNFOLD_URL=url)
            assert done.returncode == 0, (arguments, done.stderr)
            return done.stdout

        steps = [{"id": "a"}, {"id": "b", "needs": ["a"]}]
        run_id = post(tmp_path, url, "/api/runs/external", {"title": "by hand", "steps": steps})["id"]
        for words in (["start", run_id, "a"], ["complete", run_id, "a"], ["start", run_id, "b"], ["fail", run_id, "b"]):
            say("step", *words)
        say("pause", run_id)
        say("resume", run_id)
        post(tmp_path, url, f"/api/runs/{run_id}/approvals", {"summary": "go on?"})
        asked = read(tmp_path, "approvals", RUNFOLD_URL=url)["items"]
        say("approve", run_id)
        say("note", run_id, "by hand")
        say("fail", run_id)
        plan = read(tmp_path, "retry", run_id, "--from", "b", "--plan", RUNFOLD_URL=url)
        say("retry", run_id, "--from", "b")
        runs = read(tmp_path, "ps", RUNFOLD_URL=url)["items"]
        seen = [event["type"] for event in read(tmp_path, "events", run_id)["items"]]

    assert [it["summary"] for it in asked] == ["go on?"]
    assert (plan["reused"], plan["rerun"]) == (["a"], ["b"])
    assert [(it["status"], it["lineage"]["retry_of"]) for it in runs] == [("running", run_id), ("failed", None)]
    assert {"step_completed", "step_failed", "run_resumed", "approval_granted", "note_added", "run_failed"} <= set(seen)


def post(data: Path, url: str, path: str, body: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {(data / 'token').read_text().strip()}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)

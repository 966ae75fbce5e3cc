"""What is in the way is named, with what to type next, and nothing of the person's is changed."""

import json
import socket
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.sqlite3_module import sqlite3
from tests.tampering import edit, leave
from tests.terminal import first_line, read, record, runfold, started

pytestmark = pytest.mark.slow


def test_a_file_where_the_data_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")

    for command in (["run", "--", "true"], ["up", "--port", "0"], ["demo", "--exit"]):
        done = runfold(tmp_path / "file" / "data", *command)

        assert (done.returncode, done.stdout) == (1, ""), command
        assert done.stderr.startswith(f"error: the data folder `{tmp_path}/file/data` cannot be made: "), command
        assert "\n\nhint: choose another with --data" in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_what_the_system_refuses_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "server.lock").mkdir()

    done = runfold(tmp_path, "up", "--port", "0")

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: is a directory: `{tmp_path}/server.lock`\n\nhint: ")


def test_a_port_that_is_taken_is_named_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = runfold(tmp_path, "up", "--port", str(port))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1:{port}: address already in use\n\n"
        "hint: `runfold up --port 0` takes any free port\n"
    )


def park_runs_view(data: Path) -> str:
    """Put an event into the log that the fold of `runs` cannot take, as a damaged or a future one would be."""
    record(data)
    run_id = str(read(data, "ps")["items"][0]["id"])
    with closing(sqlite3.connect(data / "views.1.db")) as views, views:
        views.execute(
            "UPDATE checkpoints SET status = 'parked', error = ? WHERE view = 'runs'",
            (f"event 9 of `{run_id}`: ValueError: secret words",),
        )
    record(data)
    return run_id


def test_a_parked_view_is_told_by_reading_commands_and_doctor_with_its_remedy(tmp_path: Path) -> None:
    run_id = park_runs_view(tmp_path)

    listed = runfold(tmp_path, "ps", "--json")
    doctor = runfold(tmp_path, "doctor")
    rebuilt = runfold(tmp_path, "rebuild")

    assert json.loads(listed.stdout)["total"] == 1
    assert listed.stderr.count("\n") == 1
    assert f"event 9 of `{run_id}`: ValueError" in listed.stderr
    assert "`runfold rebuild` folds" in listed.stderr
    assert doctor.returncode == 1
    assert "view `runs` stays at position" in doctor.stdout
    assert rebuilt.returncode == 0
    assert read(tmp_path, "ps")["total"] == 2
    assert runfold(tmp_path, "doctor").returncode == 0


def test_a_parked_view_degrades_readiness_and_tells_strangers_nothing_of_the_event(tmp_path: Path) -> None:
    park_runs_view(tmp_path)

    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
            told = json.loads(answer.read())

    assert told["status"] == "degraded"
    assert [(item["view"], item["state"]) for item in told["views"]] == [("runs", "parked")]
    assert told["views"][0]["error"].endswith(": ValueError")
    assert "runfold rebuild" in told["views"][0]["remedy"]
    assert "secret words" not in json.dumps(told)


def test_run_starts_nothing_where_the_server_that_is_named_does_not_answer(tmp_path: Path) -> None:
    done = runfold(tmp_path / "data", "run", "--", "touch", str(tmp_path / "made"), RUNFOLD_URL="http://127.0.0.1:9")

    assert done.returncode == 1
    assert "error: the server at http://127.0.0.1:9 does not answer" in done.stderr
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "data").exists()


def test_a_list_that_an_altered_log_holds_up_names_the_event_that_does(tmp_path: Path) -> None:
    record(tmp_path)
    connection = edit(tmp_path)
    connection.execute("UPDATE events SET actor = 'user:mallory' WHERE position = 3")
    leave(connection)

    for command in ("ps", "audit", "costs"):
        done = runfold(tmp_path, command)

        assert "event 3, version 3 of `r_" in done.stderr, command
        assert "does not match its hash" in done.stderr, command
        assert "`runfold verify` tells all" in done.stderr, command

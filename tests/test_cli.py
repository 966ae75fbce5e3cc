"""The command line, as a person or a script meets it: real processes on a real data folder."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.sqlite3_module import sqlite3
from tests.terminal import ROOT, environment, first_line, read, record, runfold, started

pytestmark = pytest.mark.slow


def test_a_run_is_transparent_and_recorded(tmp_path: Path) -> None:
    done = record(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")

    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    listed = read(tmp_path, "ps")
    assert (listed["total"], listed["next_cursor"]) == (1, None)
    assert (listed["items"][0]["status"], listed["items"][0]["reason_code"]) == ("failed", "EXIT_NONZERO")


def test_every_reading_command_tells_the_same_run(tmp_path: Path) -> None:
    record(tmp_path)

    run = read(tmp_path, "ps")["items"][0]
    events = read(tmp_path, "events", "@last")
    history = read(tmp_path, "history", "@last")["items"]

    assert read(tmp_path, "status", run["id"]) == run
    assert [event["version"] for event in events["items"]] == list(range(1, run["version"] + 1))
    assert (events["total"], events["items"][-1]["type"]) == (run["version"], "run_completed")
    assert (history[0]["to"], history[-1]["to"]) == ("queued", "completed")
    assert runfold(tmp_path, "logs", "@last").stdout == "hello\n"


def test_a_person_reads_tables_and_the_next_command_is_not_data(tmp_path: Path) -> None:
    record(tmp_path)

    listed = runfold(tmp_path, "ps").stdout
    status = runfold(tmp_path, "status", "@last").stdout
    watched = runfold(tmp_path, "watch", "@last")

    assert listed.splitlines()[0].split() == ["ID", "STATUS", "REASON", "ELAPSED", "COST", "TITLE"]
    assert "completed (EXIT_ZERO)" in status
    assert "\x1b" not in listed + status + watched.stdout
    assert "run_completed" in watched.stdout
    assert "next: runfold status" in watched.stderr


@pytest.mark.parametrize(("program", "code"), [("pass", 0), ("raise SystemExit(9)", 1)])
def test_wait_tells_by_its_exit_code_how_the_run_ended(tmp_path: Path, program: str, code: int) -> None:
    record(tmp_path, program)

    assert runfold(tmp_path, "wait", "@last").returncode == code


def test_a_run_is_found_by_a_unique_beginning_with_or_without_r(tmp_path: Path) -> None:
    record(tmp_path)
    run_id = read(tmp_path, "ps")["items"][0]["id"]

    assert read(tmp_path, "status", run_id[:8])["id"] == run_id
    assert read(tmp_path, "status", run_id[2:9])["id"] == run_id


def test_an_ambiguous_beginning_is_refused_with_the_candidates(tmp_path: Path) -> None:
    record(tmp_path)
    record(tmp_path)

    done = runfold(tmp_path, "status", "r_")

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: `r_` is the beginning of more than one run\n\nhint: type more of it: r_")


def test_a_mistyped_run_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    record(tmp_path)
    run_id = read(tmp_path, "ps")["items"][0]["id"]
    typo = f"{run_id[:10]}{'a' if run_id[10] != 'a' else 'b'}{run_id[11:]}"

    done = runfold(tmp_path, "status", typo)

    assert done.returncode == 1
    assert f"hint: did you mean `{run_id}`?" in done.stderr


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    done = runfold(tmp_path, "statsu")

    assert done.returncode == 2
    assert done.stderr == "error: there is no command `statsu`\n\nhint: did you mean `runfold status`?\n"


def test_an_option_of_every_command_that_stands_behind_one_is_told_where_to_stand(tmp_path: Path) -> None:
    done = runfold(tmp_path, "ps", "--data", "elsewhere")

    assert done.returncode == 2
    assert done.stderr == (
        "error: no such option '--data'\n\nhint: it stands before the command: `runfold --data … ps`\n"
    )


def test_wrong_usage_exits_with_2_and_a_hint(tmp_path: Path) -> None:
    for arguments in (["run"], ["status"], ["ps", "--status", "odd"], ["run", "--label", "x", "--", "true"]):
        done = runfold(tmp_path, *arguments)

        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.startswith("error: "), arguments
        assert "\n\nhint: " in done.stderr, arguments


def test_reading_an_empty_folder_says_what_to_do_and_writes_nothing(tmp_path: Path) -> None:
    done = runfold(tmp_path / "none", "ps")

    assert done.returncode == 1
    assert "hint: `runfold run -- COMMAND`" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_reading_command_imports_no_server_no_decisions_and_no_proof(tmp_path: Path) -> None:
    record(tmp_path)
    read(tmp_path, "ps")
    program = (
        "import atexit, sys; sys.argv = ['runfold', 'ps', '-q']\n"
        "from cli.main import main\n"
        "unwanted = 'asyncio aiohttp aiosqlite structlog hashlib runfold.evolve eventstore.proof.verifying'.split()\n"
        "atexit.register(lambda: print([name for name in unwanted if name in sys.modules]))\n"
        "main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "[]"


def test_output_that_the_disk_refuses_is_an_error_and_not_a_success_cut_short(tmp_path: Path) -> None:
    record(tmp_path)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "ps", "-q"],
            cwd=ROOT,
            env=environment(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: no space left on device")


@pytest.mark.parametrize("command", ["act", "annotate", "approvals", "ending", "retry", "step"])
def test_the_help_of_a_wish_imports_neither_a_log_nor_a_way_to_a_server(tmp_path: Path, command: str) -> None:
    program = (
        f"import sys, cli.commands.{command}\n"
        "print(sorted({'asyncio', 'ssl', 'http.client', 'cli.remote', 'eventstore.sqlite'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.strip() == "[]"


def test_a_running_run_is_cancelled_without_a_server(tmp_path: Path) -> None:
    program = "import time; print('up', flush=True); time.sleep(60)"
    with started(tmp_path, "run", "--quiet", "--", sys.executable, "-c", program) as driver:
        assert first_line(driver) == "up"
        running = runfold(tmp_path, "ps", "-q", "--status", "running").stdout.strip()

        cancelled = runfold(tmp_path, "cancel", running, "--reason", "enough")
        waited = runfold(tmp_path, "wait", running)

        assert cancelled.returncode == 0, cancelled.stderr
        assert f"next: runfold status {running}" in cancelled.stderr
        assert waited.returncode == 143
        assert driver.wait(30) == 143


def test_up_serves_prints_a_login_link_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    with started(tmp_path, "up", "--port", "0") as server:
        link = first_line(server)
        url, _, code = link.partition("/login?code=")
        with urllib.request.urlopen(f"{url}/livez", timeout=30) as answer:
            alive = answer.status
        token = (tmp_path / "token").read_text().strip()
        request = urllib.request.Request(f"{url}/api/runs", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            listed = json.loads(answer.read())
        server.send_signal(signal.SIGTERM)

        assert server.wait(30) == 0
        assert code
        assert alive == 200
        assert listed["items"] == []
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_a_second_server_on_the_folder_is_refused_by_the_first_ones_pid(tmp_path: Path) -> None:
    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]

        second = runfold(tmp_path, "up", "--port", "0")
        findings = {item["name"]: item["text"] for item in read(tmp_path, "doctor")["findings"]}

        assert second.returncode == 1
        assert f"process {server.pid} at {url}" in second.stderr
        assert findings["server"] == f"up at {url}, process {server.pid}"


def test_doctor_says_where_each_setting_came_from(tmp_path: Path) -> None:
    told = {item["name"]: item for item in read(tmp_path, "doctor")["settings"]}

    assert told["data"] == {"name": "data", "value": str(tmp_path), "source": "RUNFOLD_DATA"}
    assert told["host"]["source"] == "default"


def test_doctor_shows_the_settings_in_columns(tmp_path: Path) -> None:
    settings = runfold(tmp_path, "doctor").stdout.partition("\n\n")[0].splitlines()

    matches = [re.match(r"\w+ +", line) for line in settings]
    assert len(matches) > 10
    assert len({match and match.end() for match in matches}) == 1


def test_emit_prints_a_line_for_the_run_around_it(tmp_path: Path) -> None:
    done = runfold(tmp_path, "emit", "file_written", "path=a.py", "bytes=12")

    assert json.loads(done.stdout) == {"runfold": {"type": "file_written", "path": "a.py", "bytes": 12}}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_completion(tmp_path: Path, shell: str) -> None:
    assert "_RUNFOLD_COMPLETE" in runfold(tmp_path, "completion", shell).stdout


def test_the_demo_errs_mends_itself_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = runfold(tmp_path, "demo", "--fast", "--exit")

    assert done.returncode == 0, done.stderr
    assert "/login?code=" in done.stdout.splitlines()[0]
    assert "unit_rejected" in done.stdout
    run = read(tmp_path, "status", "@last")
    assert run["status"] == "completed"
    assert run["stats"]["tests"]["failed"] == 2
    assert run["stats"]["files"] >= 3
    assert run["stats"]["cost_usd"] > 0


def test_a_lost_driver_is_shown_without_writing_and_ended_by_recover(tmp_path: Path) -> None:
    program = "print('up', flush=True); import time; time.sleep(60)"
    with started(tmp_path, "run", "--quiet", "--", sys.executable, "-c", program) as driver:
        assert first_line(driver) == "up"
        driver.kill()
        driver.wait(30)
    before = read(tmp_path, "ps")["items"][0]

    listed = runfold(tmp_path, "ps").stdout
    after = read(tmp_path, "ps")["items"][0]
    recovered = runfold(tmp_path, "recover")

    assert "running (driver lost " in listed
    assert " ago; runfold recover)" in listed
    assert before == after
    assert recovered.stdout == f"{before['id']}\n"
    ended = read(tmp_path, "status", before["id"])
    assert (ended["status"], ended["reason_code"]) == ("failed", "WORKER_LOST")


def test_a_command_that_writes_first_ends_what_has_lost_its_driver(tmp_path: Path) -> None:
    with started(tmp_path, "run", "--quiet", "--", "sh", "-c", "echo up; sleep 60") as driver:
        assert first_line(driver) == "up"
        driver.kill()
        driver.wait(30)

    cancelled = runfold(tmp_path, "cancel", "@last")

    assert cancelled.returncode == 1
    assert "is already failed" in cancelled.stderr


def test_a_server_fails_a_reported_run_whose_reporter_is_silent(tmp_path: Path) -> None:
    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        token = (tmp_path / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps({"title": "silent", "lease_seconds": 0.5}).encode()
        request = urllib.request.Request(f"{url}/api/runs/external", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            run_id = json.loads(answer.read())["id"]

        waited = runfold(tmp_path, "wait", run_id)

        assert waited.returncode == 1
        assert read(tmp_path, "status", run_id)["reason_code"] == "WORKER_LOST"


def test_views_of_another_version_name_the_command_that_folds_them_anew(tmp_path: Path) -> None:
    record(tmp_path)
    assert read(tmp_path, "ps")["total"] == 1
    with closing(sqlite3.connect(tmp_path / "views.1.db")) as views, views:
        views.execute("UPDATE checkpoints SET fingerprint = 'of an older version'")
    record(tmp_path)

    before = runfold(tmp_path, "ps", "--json")
    rebuilt = runfold(tmp_path, "rebuild")

    assert "`runfold rebuild` folds the views anew" in before.stderr
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert read(tmp_path, "ps")["total"] == 2

"""`runfold run` drives loops and workflows here, in the background, and takes a stopped run over again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.check import check

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def runfold(folder: Path, *words: str, **more: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "runfold", *words],
        cwd=folder,
        env={**environment(folder), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "RUNFOLD_DATA": str(folder / "data")}


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(runfold(folder, "status", "@last", "--json").stdout)
    return found


def test_a_command_is_run_again_until_it_says_that_it_is_done(tmp_path: Path) -> None:
    script = "cat; test -e one && echo ALL DONE; touch one"

    done = runfold(
        tmp_path, "run", "--max-turns", "5", "--prompt", "go ", "--until", "ALL DONE", "--", "sh", "-c", script
    )
    run = status(tmp_path)

    assert (done.returncode, done.stdout) == (0, b"go go ALL DONE\n")
    assert (run["status"], run["reason_code"], run["stats"]["turns"]) == ("completed", "COMPLETION_DETECTED", 2)
    assert run["completion"] == {"detected": True, "rule": "pattern", "line": "go ALL DONE"}


def test_a_loop_that_never_says_so_stops_and_exits_with_75(tmp_path: Path) -> None:
    done = runfold(tmp_path, "run", "--max-turns", "2", "--stop-file", "STOP", "--", "true")

    assert (done.returncode, status(tmp_path)["reason_code"]) == (75, "MAX_TURNS_REACHED")


def test_a_workflow_runs_here_with_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(
        '[workflow.w]\ncommand = ["echo", "{word}"]\n[workflow.w.parameters.word]\ndefault = "hello"\n'
    )

    plain = runfold(tmp_path, "run", "--workflow", "w")
    given = runfold(tmp_path, "run", "--workflow", "w", "--param", "word=bye")

    assert (plain.stdout, given.stdout) == (b"hello\n", b"bye\n")
    assert status(tmp_path)["workflow"] == "w"


def test_a_detached_run_prints_its_id_and_goes_on_alone(tmp_path: Path) -> None:
    done = runfold(tmp_path, "run", "--detach", "--", "sh", "-c", "echo out; echo err >&2; exit 0")
    run_id = done.stdout.decode().strip()
    waited = runfold(tmp_path, "wait", run_id)

    assert (done.returncode, waited.returncode) == (0, 0)
    output = (tmp_path / "data" / "runs" / run_id / "output.log").read_text()
    assert sorted(output.splitlines()) == ["err", "out"]


def test_an_interrupted_run_is_taken_over_in_a_terminal(tmp_path: Path) -> None:
    script = "test -e one && exit 0; touch one; echo up; sleep 1000"
    process = subprocess.Popen(
        [sys.executable, "-m", "runfold", "run", "--", "sh", "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    stopped = status(tmp_path)

    resumed = runfold(tmp_path, "resume", "@last")
    run = status(tmp_path)

    assert (stopped["status"], process.returncode) == ("stopped", 143)
    assert (resumed.returncode, run["status"], run["stats"]["turns"]) == (0, "completed", 2)


def test_init_writes_a_file_that_check_finds_right(tmp_path: Path) -> None:
    written = runfold(tmp_path, "init")
    again = runfold(tmp_path, "init")
    checked = runfold(tmp_path, "check")

    assert (written.returncode, again.returncode, checked.returncode) == (0, 1, 0)
    assert b"hello: ok" in checked.stdout


def test_init_writes_a_workflow_for_each_agent_that_it_finds(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("codex", "opencode"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)

    written = runfold(tmp_path, "init", PATH=f"{programs}:/usr/bin:/bin")
    checked = runfold(tmp_path, "check", PATH=f"{programs}:/usr/bin:/bin")

    assert (written.returncode, checked.returncode) == (0, 0)
    assert checked.stdout.decode().splitlines() == ["codex: ok", "hello: ok", "opencode: ok"]


def test_check_names_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(
        '[workflow.w]\ncommand = ["no-such-program"]\nworkspace = "nowhere"\n[workflow.w.completion]\npattern = "(a"\n'
    )

    checked = runfold(tmp_path, "check")

    assert checked.returncode == 1
    for word in (b"no-such-program", b"nowhere", b"completion pattern"):
        assert word in checked.stdout


def test_check_says_when_files_are_told_only_at_a_turns_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runfold.toml").write_text('[workflow.w]\ncommand = ["true"]\nwatch_files = true\n')
    monkeypatch.chdir(tmp_path)

    there = CliRunner().invoke(check)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    absent = CliRunner().invoke(check)

    assert (there.exit_code, absent.exit_code) == (0, 0)
    assert "runfold[watch]" not in there.output
    assert "at the end of each turn; `pip install 'runfold[watch]'`" in absent.output

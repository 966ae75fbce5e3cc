"""The sixteen phases of the example, driven by hand in the terminal: what a person types, and what he is told."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import CompleteStep, StartStep

ROOT = Path(__file__).parent.parent
ORDER = ("0", "1", "2", "3", "3.5", "4", "5", "6", "7", "8", "8.5", "9", "10a", "10b", "11", "12")
RESTING_ON_2 = {name: "2" for name in ORDER if name not in ("0", "1", "2")}

pytestmark = pytest.mark.slow


def runfold(data: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNFOLD_")}
    return subprocess.run(
        [sys.executable, "-m", "runfold", *words],
        cwd=ROOT / "examples" / "phases",
        env={**kept, "PYTHONPATH": str(ROOT), "RUNFOLD_DATA": str(data)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def read(data: Path, *words: str) -> Any:
    done = runfold(data, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complete(data: Path, run_id: str, *steps: str) -> None:
    """As `runfold step start` and `complete` do, but in this process."""

    async def execute() -> None:
        log = await SqliteLog.open(data)
        try:
            ledger = Ledger(log, data=data)
            for step in steps:
                for command in (StartStep(step=step), CompleteStep(step=step)):
                    await ledger.execute(run_id, command, actor="user:a", tenant="default")
        finally:
            await log.close()

    asyncio.run(execute())


def test_a_rerun_of_phase_2_takes_exactly_what_rests_on_it_with_it(tmp_path: Path) -> None:
    run_id = runfold(tmp_path, "run", "--workflow", "analysis").stdout.strip()
    complete(tmp_path, run_id, *ORDER)

    marked = read(tmp_path, "step", "rerun", "@last", "2", "--reason", "new data")
    run = read(tmp_path, "status", run_id)

    changed = {it["step"]: it["because_of"] for it in marked["changed"]}
    assert changed == {"2": None, **RESTING_ON_2}
    assert len(RESTING_ON_2) == 13
    assert (run["status"], run["steps"]["by_status"]) == ("running", {"completed": 2, "needs_rerun": 14})


def test_a_phase_is_started_completed_failed_and_ended_by_hand(tmp_path: Path) -> None:
    opened = runfold(tmp_path, "run", "--workflow", "analysis")
    too_early = runfold(tmp_path, "step", "start", "@last", "3")
    for action in ("start", "complete"):
        assert runfold(tmp_path, "step", action, "@last", "0").returncode == 0
    started = runfold(tmp_path, "step", "start", "@last", "2", "--input", '{"rows": 3}', "--metadata", "by=hand")
    failed = read(tmp_path, "step", "fail", "@last", "2", "--reason", "the disk is full")
    skipped = runfold(tmp_path, "step", "skip", "@last", "1", "--reason", "known already")
    again = read(tmp_path, "step", "start", "@last", "2")
    reset = runfold(tmp_path, "step", "reset", "@last", "--all")
    runfold(tmp_path, "step", "complete", "@last", "2", "--output", "done")
    ended = runfold(tmp_path, "complete", "@last", "--message", "enough")
    late = runfold(tmp_path, "step", "start", "@last", "3")

    assert f"next: runfold step start {opened.stdout.strip()} 0" in opened.stderr
    assert (too_early.returncode, "it needs `2` (pending)" in too_early.stderr) == (1, True)
    assert "step 2 is running" in started.stderr
    assert [(it["step"], it["status"]) for it in failed["changed"]] == [("2", "failed")]
    assert skipped.returncode == 0
    assert again["changed"][0]["attempt"] == 2
    assert (reset.returncode, "complete or fail them first" in reset.stderr) == (1, True)
    assert ended.returncode == 0
    assert (late.returncode, "runfold retry" in late.stderr) == (1, True)


def test_the_report_of_the_phases_tells_progress_states_reruns_failures_and_the_graph(tmp_path: Path) -> None:
    run_id = runfold(tmp_path, "run", "--workflow", "analysis").stdout.strip()
    complete(tmp_path, run_id, *ORDER[:6])
    for words in (("start", "5"), ("fail", "5", "--reason", "the odds are missing"), ("rerun", "3", "--reason", "new")):
        assert runfold(tmp_path, "step", words[0], "@last", *words[1:]).returncode == 0

    done = runfold(tmp_path, "report", "@last")

    text = done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert [part for part in text.split("\n") if part.startswith("#")] == [
        "# Analysis in sixteen phases", "## Steps", "### Failed (1)", "### Needs rerun (3)", "### Completed (3)",
        "### Pending (9)", "## Why", "## Graph",
    ]  # fmt: skip
    assert f"| Run | `{run_id}` |" in text
    assert "| Status | in-progress (" in text
    assert "`[██████░░░░░░░░░░░░░░░░░░░░░░░░░░]` 3 of 16 steps (18.8%)" in text
    assert f"the odds are missing. `runfold step start {run_id} 5` tries again" in line_of(text, "5")
    assert line_of(text, "3").endswith("asked for: new")
    assert "because 3 changed" in line_of(text, "3.5")
    assert "because 3 changed" in line_of(text, "4")
    assert "waits for 9" in line_of(text, "10a")
    assert "- Step 5 failed at attempt 1: the odds are missing." in text
    graph = text.partition("```mermaid\n")[2].partition("```")[0].splitlines()
    assert (graph[0], sum(":::" in it for it in graph), sum("-->" in it for it in graph)) == ("graph TD", 16, 15)
    assert sum(":::needs_rerun" in it for it in graph) == 3


def line_of(report: str, step: str) -> str:
    (line,) = [it for it in report.splitlines() if it.startswith(f"- **{step}**")]
    return line


def test_a_retry_from_a_phase_reuses_the_others_and_is_planned_first(tmp_path: Path) -> None:
    run_id = runfold(tmp_path, "run", "--workflow", "analysis").stdout.strip()
    complete(tmp_path, run_id, *ORDER[:6])
    runfold(tmp_path, "fail", "@last", "--message", "wrong data")

    plan = read(tmp_path, "retry", "@last", "--from", "3", "--plan")
    before = read(tmp_path, "ps")["total"]
    done = read(tmp_path, "retry", "@last", "--from", "3")
    new = read(tmp_path, "status", done["new_run_id"])
    old = read(tmp_path, "status", plan["retry_of"])

    assert (plan["reused"], plan["new_run_id"], before) == (["0", "1", "2"], None, 1)
    assert new["steps"]["by_status"] == {"completed": 3, "pending": 13}
    assert (new["lineage"]["retry_of"], old["lineage"]["retries"]) == (plan["retry_of"], [done["new_run_id"]])

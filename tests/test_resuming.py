"""A stopped run says what stopped it and which command lets it go on, and that command does, whatever the limit was."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from runfold import commands as c
from runfold import events as e
from runfold.errors import NotAllowed
from runfold.limits import parse_pairs, with_new
from runfold.report import report
from runfold.state import Run
from tests.given import SECOND_US, after, done, graph, here, observe, reported, when
from tests.terminal import environment, first_line, read, runfold, started

COSTS = e.TokenUsage(input_tokens=10, cost_micros=300_000)
FAILS = [e.UnitFailed(unit="x"), e.UnitRejected(unit="y")]
REJECTS = [e.UnitApproved(unit="x"), *(e.UnitRejected(unit=name) for name in "yzw")]
RETRIES = [e.UnitStarted(unit=unit, attempt=n) for n, units in ((1, "xyzw"), (2, "xyz")) for unit in units]
LOOP = [e.CommandExecuted(command="ls")] * 3


def again(run: Run) -> Run:
    """What the run's own resume command makes of it."""
    words = str(report(run).details["resume_command"]).split()
    assert words[:3] == ["runfold", "resume", "r_x"]
    assert words[3:4] in ([], ["--limit"])
    return after(c.Resume(limits=parse_pairs(words[4:])), run=run)


@pytest.mark.parametrize(
    ("limits", "events", "condition", "needs_more"),
    [
        ({"cost_usd": 1}, [COSTS] * 4, "cost", True),
        ({"tokens": 30}, [COSTS] * 3, "tokens", True),
        ({"reject_rate": "50%"}, REJECTS, "reject_rate", True),
        ({"retry_rate": 0.5}, RETRIES, "retry_rate", True),
        ({"attempts": 2}, [e.UnitStarted(unit="x", attempt=n) for n in (1, 2, 3)], "attempts", True),
        ({"consecutive_fails": 2}, FAILS, "consecutive_fails", False),
        ({"stuck_loop": 3}, LOOP, "stuck_loop", False),
        ({"cost": 1}, [e.TokenUsage(input_tokens=5)], "cost", False),
    ],
)
def test_the_command_that_a_stopped_run_shows_lets_it_go_on_with_what_it_has_done(
    limits: dict[str, Any], events: list[Any], condition: str, needs_more: bool
) -> None:
    run = after(reported(limits=limits, steps=graph("a", "b: a"), units_total=4), *done("a"), observe(*events))
    stopped = report(run)

    resumed = again(run)

    assert (run.status, stopped.details["stop_condition"]) == ("stopped", condition)
    assert None not in (stopped.details["threshold"], stopped.details["actual_value"])
    assert ("--limit" in str(stopped.details["resume_command"])) == needs_more
    if needs_more:
        with pytest.raises(NotAllowed, match="used up"):
            when(run, c.Resume())
    assert resumed.status == "running"
    assert resumed.step_states["a"].status == "completed"
    assert replace(resumed.units, fails_in_row=0, current=None) == replace(run.units, fails_in_row=0, current=None)
    assert after(observe(e.Message(text="on")), run=resumed).status == "running"


def test_a_run_whose_time_was_up_gets_as_much_again() -> None:
    run = after(reported(limits={"time": "60s"}))
    run = after(c.CheckLimits(), run=run, now_us=run.updated_at_us + 61 * SECOND_US)

    resumed = again(run)

    assert (run.reason_code, resumed.status) == ("TIME_LIMIT_EXCEEDED", "running")
    assert when(resumed, c.CheckLimits(), now_us=resumed.updated_at_us + 30 * SECOND_US) == ()


def test_a_run_that_used_its_turns_gets_as_many_again() -> None:
    run = after(here(limits={"turns": 2}, max_turns=9))
    for number in (1, 2):
        run = after(c.StartTurn(claim=1, started=e.TurnStarted(turn=number)),
                    c.EndTurn(claim=1, ended=e.TurnCompleted(turn=number)), run=run)  # fmt: skip
    run = after(c.StartTurn(claim=1, started=e.TurnStarted(turn=3)), run=run)

    assert (run.status, run.reason_code) == ("stopped", "MAX_TURNS_REACHED")
    with pytest.raises(NotAllowed, match=r"its turns are used up \(2 of 2\)"):
        when(run, c.Resume())
    assert report(run).details["resume_command"] == "runfold resume r_x --limit turns=4"
    resumed = again(run)
    assert (resumed.status, resumed.max_turns) == ("queued", 9)


def test_a_new_limit_stands_in_place_of_the_old_one_by_whichever_name() -> None:
    assert with_new({"cost_usd": 1, "tokens": 5}, {"cost": 2}) == {"tokens": 5, "cost": 2}
    assert with_new({"step:a:cost": 1}, {"step:a:cost_usd": 2, "cost": 3}) == {"step:a:cost_usd": 2, "cost": 3}


def test_a_budget_that_was_used_up_stops_the_run_again_until_there_is_more() -> None:
    used_up = c.Budget(limit="cost", scope="day", threshold=1, actual=1.2)
    turn = c.StartTurn(claim=1, started=e.TurnStarted(turn=1), budgets=(used_up,))
    run = after(here(), turn)

    resumed = after(c.Resume(driver="here", worker="w"), run=run)

    assert "`[budgets]` in runfold.toml gives more" in run.message
    assert after(replace(turn, claim=2), run=resumed).status == "stopped"
    tomorrow = replace(turn, claim=2, budgets=(replace(used_up, actual=0),))
    assert after(tomorrow, run=resumed).turn_open


STEPS = """[workflow.w]
limits = {{ cost_usd = 1 }}
[[workflow.w.steps]]
id = "a"
command = ["sh", "-c", '''echo a >> made; printf "%s\\n" '{usage}' ''']
[[workflow.w.steps]]
id = "b"
needs = ["a"]
command = ["sh", "-c", '''echo b >> made; printf "%s\\n" '{usage}' ''']
[[workflow.w.steps]]
id = "c"
needs = ["b"]
command = ["sh", "-c", "echo c >> made"]
"""
USAGE = '{"runfold": {"type": "token_usage", "model": "m", "input_tokens": 100, "cost_micros": 600000}}'


def run_in(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "runfold", *words]
    return subprocess.run(command, cwd=folder, env=environment(folder / "data"), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_resumed_does_no_finished_step_again(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(STEPS.format(usage=USAGE))

    stopped = run_in(tmp_path, "run", "--workflow", "w")
    shown = run_in(tmp_path, "status", "@last").stdout
    before = read(tmp_path / "data", "status", "@last")
    resumed = run_in(tmp_path, *before["report"]["details"]["resume_command"].split()[1:])
    run = read(tmp_path / "data", "status", "@last")

    assert (stopped.returncode, resumed.returncode) == (75, 0)
    assert "$1.20 of $1.00" in shown
    assert "--limit cost=2.2" in shown
    assert (run["status"], run["reason_code"]) == ("completed", "ALL_STEPS_COMPLETED")
    assert (tmp_path / "made").read_text().split().count("a") == 1


@pytest.mark.slow
def test_a_loop_that_used_its_turns_makes_as_many_more_as_it_is_given(tmp_path: Path) -> None:
    loop = ("run", "--quiet", "--max-turns", "2", "--until", "NEVER", "--", "sh", "-c", "echo turn >> made")

    stopped = run_in(tmp_path, *loop)
    refused = run_in(tmp_path, "resume", "@last")
    resumed = run_in(tmp_path, "resume", "@last", "--limit", "turns=5")
    run = read(tmp_path / "data", "status", "@last")

    assert (stopped.returncode, refused.returncode, resumed.returncode) == (75, 1, 75)
    assert "its turns are used up (2 of 2)" in refused.stderr
    assert (run["reason_code"], run["stats"]["turns"]) == ("MAX_TURNS_REACHED", 5)
    assert (tmp_path / "made").read_text().count("turn") == 5
    assert runfold(tmp_path / "data", "status", "@last").stdout.count("--limit turns=10") == 1


@pytest.mark.slow
def test_ctrl_c_stops_a_run_as_the_users_wish_and_it_can_go_on(tmp_path: Path) -> None:
    flag = tmp_path / "again"
    program = f"[ -e {flag} ] && exit 0; touch {flag}; echo up; exec sleep 600"
    with started(tmp_path / "data", "run", "--quiet", "--", "sh", "-c", program) as driver:
        assert first_line(driver) == "up"
        driver.send_signal(signal.SIGINT)
        code = driver.wait(30)
    run = read(tmp_path / "data", "status", "@last")
    resumed = runfold(tmp_path / "data", *run["report"]["details"]["resume_command"].split()[1:])

    assert (code, run["status"], run["reason_code"]) == (130, "stopped", "USER_INTERRUPT")
    assert (resumed.returncode, read(tmp_path / "data", "status", "@last")["status"]) == (0, "completed")

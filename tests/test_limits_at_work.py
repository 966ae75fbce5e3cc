"""Limits that stop, warn or ask while a real program runs, and the command that lets it go on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from runfold.commands import Budget
from runfold.errors import NotAllowed
from runfold.events import StepSpec
from runner.prices import check_price
from tests.terminal import environment, read, runfold

pytestmark = pytest.mark.slow
SPENDS = (
    "import json, pathlib, sys, time\n"
    "done = pathlib.Path(sys.argv[1])\n"
    "again = done.exists()\n"
    "done.touch()\n"
    "usage = {'type': 'token_usage', 'input_tokens': 10, 'cost_micros': 300_000}\n"
    "for _ in range(1 if again else 4): print(json.dumps({'runfold': usage}), flush=True)\n"
    "if not again: time.sleep(600)\n"
)
CODEX = (
    f"#!{sys.executable}\n"
    "import json\n"
    "usage = {'input_tokens': 900, 'cached_input_tokens': 0, 'output_tokens': 40}\n"
    "for line in ({'type': 'thread.started', 'thread_id': 't'}, {'type': 'turn.completed', 'usage': usage}):\n"
    "    print(json.dumps(line), flush=True)\n"
)


def limited(data: Path, limit: str, *command: str) -> Any:
    return runfold(data, "run", "--quiet", "--limit", limit, "--", *command)


def spends(folder: Path, program: str = SPENDS) -> tuple[str, ...]:
    """A program that spends $1.20 and waits; started again, $0.30 and ends."""
    path = folder / "spends.py"
    path.write_text(program)
    return sys.executable, str(path), str(folder / "done")


def events(data: Path, kind: str) -> list[dict[str, Any]]:
    return [item["data"] for item in read(data, "events", "@last", "--type", kind)["items"]]


def test_what_costs_too_much_is_stopped_and_goes_on_with_the_command_that_is_shown(tmp_path: Path) -> None:
    stopped = limited(tmp_path / "data", "cost=1.00", *spends(tmp_path))
    details = read(tmp_path / "data", "status", "@last")["report"]["details"]
    told = events(tmp_path / "data", "limit_exceeded")
    refused = runfold(tmp_path / "data", "resume", "@last")
    resumed = runfold(tmp_path / "data", *details["resume_command"].split()[1:])
    after = read(tmp_path / "data", "status", "@last")

    assert stopped.returncode == 75
    assert (details["stop_condition"], details["threshold"], details["actual_value"]) == ("cost", 1.0, 1.2)
    assert [(it["limit"], it["overshoot"]) for it in told] == [("cost", 0.2)]
    assert "cost is used up ($1.20 of $1.00)" in refused.stderr
    assert f"hint: `{details['resume_command']}`" in refused.stderr
    assert (resumed.returncode, after["status"], after["stats"]["cost_usd"]) == (0, "completed", 1.5)


def test_a_program_that_says_nothing_is_stopped_when_its_time_is_up(tmp_path: Path) -> None:
    stopped = limited(tmp_path, "time=1s", "sleep", "600")

    run = read(tmp_path, "status", "@last")
    assert (stopped.returncode, run["status"], run["reason_code"]) == (75, "stopped", "TIME_LIMIT_EXCEEDED")
    assert run["duration_ms"] < 60_000


def test_a_limit_that_warns_stops_nothing(tmp_path: Path) -> None:
    program = SPENDS.replace("time.sleep(600)", "None")

    done = limited(tmp_path / "data", "cost=0.50:warn", *spends(tmp_path, program))

    assert done.returncode == 0
    assert [it["on_exceed"] for it in events(tmp_path / "data", "limit_exceeded")] == ["warn"]


def test_a_limit_that_is_none_starts_nothing(tmp_path: Path) -> None:
    done = limited(tmp_path / "data", "cots=1", "touch", str(tmp_path / "made"))

    assert (done.returncode, (tmp_path / "made").exists()) == (1, False)
    assert "error: limits.cots is no limit of a run" in done.stderr


@pytest.fixture
def codex(tmp_path: Path) -> str:
    path = tmp_path / "codex"
    path.write_text(CODEX)
    path.chmod(0o755)
    return str(path)


def test_a_cost_limit_is_refused_at_the_start_where_no_price_can_come(tmp_path: Path, codex: str) -> None:
    refused = limited(tmp_path / "data", "cost=1", codex, "exec", "--json")

    assert refused.returncode == 1
    assert "codex prints neither its cost nor its model" in refused.stderr
    assert "hint: name the model with `--model`" in refused.stderr
    assert runfold(tmp_path / "data", "ps", "--all").stdout.count("r_") == 0


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [((), 75, "COST_LIMIT_EXCEEDED"), (("--limit", "on_unknown_price=warn"), 0, "EXIT_ZERO")],
)
def test_usage_that_nobody_can_price_follows_what_was_asked(
    tmp_path: Path, codex: str, more: tuple[str, ...], code: int, reason: str
) -> None:
    pytest.importorskip("genai_prices")
    words = ("--model", "nobodys-model-9", "--limit", "cost=1", *more, "--", codex, "exec", "--json")

    done = runfold(tmp_path / "data", "run", "--quiet", *words)

    assert (done.returncode, read(tmp_path / "data", "status", "@last")["reason_code"]) == (code, reason)
    assert [it["reason"] for it in events(tmp_path / "data", "limit_exceeded")] == ["price_unknown"]


def test_a_model_that_is_named_gives_codex_its_price(tmp_path: Path, codex: str) -> None:
    pytest.importorskip("genai_prices")
    words = ("--model", "gpt-5", "--limit", "cost=1", "--", codex, "exec", "--json")

    done = runfold(tmp_path / "data", "run", "--quiet", *words)

    usage = events(tmp_path / "data", "token_usage")
    assert (done.returncode, usage[0]["model"]) == (0, "gpt-5")
    assert usage[0]["cost_micros"] > 0


@pytest.mark.parametrize(
    ("argv", "limits", "model"),
    [
        (("codex",), {"tokens": 5}, None),
        (("codex",), {"cost": "1:warn"}, None),
        (("codex",), {"cost": 1, "on_unknown_price": "warn"}, None),
        (("claude",), {"cost": 1}, None),
        (("python", "codex"), {"cost": 1}, None),
    ],
)
def test_no_price_is_asked_for_where_one_may_come_or_none_is_needed(
    argv: tuple[str, ...], limits: dict[str, Any], model: str | None
) -> None:
    check_price(argv, limits, format_name=None, model=model)


def test_a_format_that_is_named_counts_more_than_the_program() -> None:
    with pytest.raises(NotAllowed, match="codex prints neither"):
        check_price(("wrapper",), {"cost": 1}, format_name="codex", model=None)
    check_price(("codex",), {"cost": 1}, format_name="claude", model=None)


CODEX_STEP = StepSpec(id="write", command=("codex", "exec", "--json"))


@pytest.mark.parametrize(
    ("limits", "step", "budgets"),
    [
        ({"cost": 1}, CODEX_STEP, ()),
        ({"step:write:cost": 1}, CODEX_STEP, ()),
        ({}, replace(CODEX_STEP, limits={"cost_usd": 1}), ()),
        ({}, CODEX_STEP, (Budget(limit="cost", scope="day", threshold=5, actual=0),)),
    ],
)
def test_a_step_whose_program_can_have_no_price_is_refused_before_the_run_starts(
    limits: dict[str, Any], step: StepSpec, budgets: tuple[Budget, ...]
) -> None:
    with pytest.raises(NotAllowed, match="of step write needs a price, and codex prints neither"):
        check_price((), limits, format_name=None, model=None, steps=(step,), budgets=budgets)


@pytest.mark.parametrize(
    ("limits", "step", "budgets"),
    [
        ({"tokens": 1}, CODEX_STEP, ()),
        ({"step:other:cost": 1}, CODEX_STEP, ()),
        ({"cost": "1:warn"}, CODEX_STEP, ()),
        ({"cost": 1}, StepSpec(id="by-hand"), ()),
        ({"cost": 1}, replace(CODEX_STEP, command=("claude",)), ()),
        ({}, CODEX_STEP, (Budget(limit="tokens", scope="day", threshold=5, actual=0),)),
        ({}, CODEX_STEP, (Budget(limit="cost", scope="day", threshold=5, actual=0, on_unknown_price="warn"),)),
    ],
)
def test_a_step_is_asked_for_no_price_where_none_is_needed(
    limits: dict[str, Any], step: StepSpec, budgets: tuple[Budget, ...]
) -> None:
    check_price((), limits, format_name=None, model=None, steps=(step,), budgets=budgets)


def test_a_step_with_codex_and_a_cost_limit_starts_nothing(tmp_path: Path, codex: str) -> None:
    (tmp_path / "runfold.toml").write_text(
        f"[workflow.w]\nlimits = {{ cost = 1 }}\n[[workflow.w.steps]]\nid = 'a'\ncommand = ['{codex}', 'exec']\n"
    )

    refused = subprocess.run(
        [sys.executable, "-m", "runfold", "run", "--workflow", "w"],
        cwd=tmp_path,
        env=environment(tmp_path / "data"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert refused.returncode == 1
    assert "a cost limit of step a needs a price, and codex prints neither" in refused.stderr
    assert runfold(tmp_path / "data", "ps", "--all").stdout.count("r_") == 0

"""What a run will cost is said before it starts, and a person is asked where the workflow asks for one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runfold import commands as c
from runfold import events as e
from runfold.approvals import APPROVAL_SECONDS
from runfold.errors import InvalidSetting, NotAllowed
from runfold.estimates import Estimate, Figure, Past, Spread, cost_estimated, estimate_of
from runfold.markdown import why
from runfold.report import report
from runfold.snapshot import Expected, snapshot
from runfold.workflows import Asked, Registry, order_of, parse_workflows
from tests.given import SECOND_US, after, names, when
from tests.served import OTHER, Served, serving
from tests.terminal import ROOT, Screen, environment, read, runfold
from tests.working import working

SPENDS = '{"runfold": {"type": "token_usage", "model": "m", "input_tokens": 100, "cost_micros": 400000}}'
COMMAND = f"""command = ['sh', '-c', '''printf "%s\\n" '{SPENDS}'''']\n"""
ASKS = f"[workflow.w]\n{COMMAND}approval = 'Spend it?'\nestimate = {{ cost_usd = 2.5, duration_seconds = 60 }}\n"
EXPECTED = e.CostEstimated(low_micros=300_000, high_micros=900_000, basis="p50 and p90 of 9 past runs")


def past(*dollars: float | None) -> list[Past]:
    return [
        Past(cost_micros=None if cost is None else round(cost * 1_000_000), duration_us=2_000_000, tokens=7)
        for cost in dollars
    ]


def asking(**more: Any) -> e.RunQueued:
    return e.RunQueued(workflow="w", command=("x",), approval="Spend it?", **more)


def test_an_estimate_is_what_half_and_nine_of_ten_past_runs_kept_to() -> None:
    found = estimate_of("w", past(*(n / 10 for n in range(1, 11))), Figure(cost_usd=99))

    assert (found.runs, found.basis) == (10, "past_runs")
    assert (found.cost_usd, found.duration_ms) == (Spread(p50=0.5, p90=0.9), Spread(p50=2_000, p90=2_000))
    assert cost_estimated(found) == e.CostEstimated(
        low_micros=500_000, high_micros=900_000, basis="p50 and p90 of 10 past runs"
    )


def test_where_no_past_run_has_a_price_the_workflows_own_figure_counts_and_else_nothing_is_made_up() -> None:
    own, none = estimate_of("w", past(None, None), Figure(cost_usd=2)), estimate_of("w", [])

    assert (own.basis, own.cost_usd, own.duration_ms) == ("workflow", Spread(p50=2, p90=2), Spread(p50=2e3, p90=2e3))
    assert (none.basis, none.cost_usd, cost_estimated(none)) == ("unknown", None, None)


@pytest.mark.parametrize(
    ("cost", "asked"),
    [(Spread(p50=1, p90=4.9), None), (Spread(p50=1, p90=5.1), "Sure?"), (None, "Sure?")],
)
def test_a_workflow_may_ask_only_above_a_sum_and_always_where_none_is_known(
    cost: Spread | None, asked: str | None
) -> None:
    workflow = parse_workflows(f"[workflow.w]\n{COMMAND}approval = 'Sure?'\napproval_above_usd = 5")["w"]
    known = Estimate(workflow="w", runs=1, basis="past_runs", cost_usd=cost, duration_ms=None, tokens=None)

    assert order_of(workflow, Asked(), folder="/w", estimate=known).approval == asked


def test_a_figure_that_is_none_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidSetting, match=r"line 4: `workflow\.w\.estimate"):
        parse_workflows(f"[workflow.w]\n{COMMAND}\nestimate = {{ cost_usd = -1 }}")


@pytest.mark.parametrize(
    "command",
    [c.Queue(queued=asking(), estimated=EXPECTED), c.StartHere(queued=asking(), worker="w", estimated=EXPECTED)],
)
def test_a_run_that_asks_waits_for_the_answer_without_a_worker(command: Any) -> None:
    run = after(command)

    assert names(after(), command) == ["run_queued", "cost_estimated", "approval_requested", "run_paused"]
    assert (run.status, run.reason_code, run.waiting_on, run.worker) == (
        "paused",
        "AWAITING_APPROVAL",
        "approval:a1",
        "",
    )
    assert (run.approvals["a1"].kind, run.approvals["a1"].amount_micros) == ("start", 900_000)
    with pytest.raises(NotAllowed):
        when(run, c.Claim(worker="w"))
    assert snapshot(run, position=1).estimate == Expected(low_usd=0.3, high_usd=0.9, basis=EXPECTED.basis)
    granted = after(c.Grant(approval_id="a1", digest=run.approvals["a1"].digest), run=run)
    assert (granted.status, granted.waiting_on) == ("queued", None)
    assert names(granted, c.Claim(worker="w")) == ["run_claimed"]


def test_what_is_granted_is_this_order_and_no_other() -> None:
    a, b = after(c.Queue(queued=asking())), after(c.Queue(queued=asking(prompt="something else")))

    assert a.approvals["a1"].digest != b.approvals["a1"].digest
    with pytest.raises(NotAllowed, match="is not what you answered"):
        when(a, c.Grant(approval_id="a1", digest=b.approvals["a1"].digest))


def test_a_start_that_is_denied_or_not_answered_stops_the_run_for_good() -> None:
    run = after(c.Queue(queued=asking()))
    denied = after(c.Deny(approval_id="a1"), run=run)
    too_late = run.updated_at_us + APPROVAL_SECONDS * SECOND_US

    assert (denied.status, denied.reason_code) == ("stopped", "APPROVAL_DENIED")
    assert names(run, c.CheckLimits(), now_us=too_late) == ["approval_expired", "run_stopped"]
    with pytest.raises(NotAllowed) as refused:
        when(denied, c.Resume())
    assert "`runfold retry r_x` asks again" in refused.value.hint
    assert report(denied).details["resume_command"] == "runfold retry r_x"
    assert why(denied)[-1] == "Next: `runfold retry r_x` asks again."


def test_a_run_driven_by_hand_that_asks_starts_no_step_before_the_answer() -> None:
    run = after(c.OpenReported(queued=asking(steps=(e.StepSpec(id="a"),))))

    with pytest.raises(NotAllowed, match="paused") as refused:
        when(run, c.StartStep(step="a"))
    assert "`runfold approve r_x a1`" in refused.value.hint
    granted = after(c.Grant(approval_id="a1"), run=run)
    assert names(granted, c.StartStep(step="a")) == ["step_started"]


async def finished(served: Served, cost_micros: int, token: str) -> None:
    run_id = await served.open_run(workflow="w", token=token)
    usage = {"type": "token_usage", "data": {"model": "m", "input_tokens": 10, "cost_micros": cost_micros}}
    await served.report(run_id, usage, token=token)
    await served.ask("POST", f"/api/runs/{run_id}/control", token=token, json={"action": "complete"})


async def test_an_estimate_over_http_is_from_the_own_tenants_runs_and_a_launch_says_it(tmp_path: Path) -> None:
    workflows = parse_workflows(ASKS)
    async with serving(tmp_path, registry=lambda: Registry(workflows=workflows)) as served:
        before = await (await served.ask("GET", "/api/workflows/w/estimate")).json()
        await finished(served, 9_000_000, OTHER)
        for cost in (200_000, 400_000, 600_000):
            await finished(served, cost, "admin-token")
        found = await (await served.ask("GET", "/api/workflows/w/estimate")).json()
        unknown = await served.ask("GET", "/api/workflows/nobody/estimate")
        key = {"Idempotency-Key": "k"}
        launched = await served.ask("POST", "/api/runs", json={"workflow": "w"}, headers=key)
        body = await launched.json()
        await finished(served, 5_000_000, "admin-token")
        again = await served.ask("POST", "/api/runs", json={"workflow": "w"}, headers=key)

        assert (before["basis"], before["cost_usd"]) == ("workflow", {"p50": 2.5, "p90": 2.5})
        assert (found["basis"], found["runs"], found["cost_usd"]) == ("past_runs", 3, {"p50": 0.4, "p90": 0.6})
        assert unknown.status == 404
        assert (launched.status, body["status"], body["waiting_on"]) == (202, "paused", "approval:a1")
        assert body["estimate"]["high_usd"] == 0.6
        assert (again.status, (await again.json())["id"]) == (202, body["id"])


@pytest.mark.slow
async def test_a_worker_starts_what_was_allowed_after_a_restart_and_nothing_before(tmp_path: Path) -> None:
    async with working(tmp_path, ASKS) as workers:
        run_id = await workers.queue("w")
    async with working(tmp_path, ASKS) as workers:
        waiting = await workers.ledger.state(run_id)
        await workers.execute(run_id, c.Grant(approval_id="a1", digest=waiting.approvals["a1"].digest))
        run = await workers.wait_rest(run_id)
        types = await workers.types(run_id)

    assert (waiting.status, waiting.turns) == ("paused", 0)
    assert (run.status, run.cost_micros) == ("completed", 400_000)
    assert types.index("approval_granted") < types.index("run_claimed")


@pytest.mark.slow
def test_a_run_here_that_asks_ends_with_75_and_goes_on_once_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(ASKS)
    data = tmp_path / "data"

    def here(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "runfold", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment(data), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)  # fmt: skip

    asked = here("run", "--workflow", "w")
    early = here("resume", "@last")
    granted = here("approve", "@last")
    resumed = here("resume", "@last")
    run = read(data, "status", "@last")

    assert (asked.returncode, early.returncode, granted.returncode, resumed.returncode) == (75, 1, 0, 0)
    assert "starts once `runfold approve r_" in asked.stderr
    assert (run["status"], run["stats"]["cost_usd"], run["estimate"]["high_usd"]) == ("completed", 0.4, 2.5)
    assert "approval" in runfold(data, "events", "@last").stdout


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "code", "status"), [("what\ny\n", 0, "completed"), ("n\n", 75, "stopped")])
def test_a_terminal_puts_the_question_to_its_person_and_takes_the_answer(
    tmp_path: Path, typed: str, code: int, status: str
) -> None:
    (tmp_path / "runfold.toml").write_text(ASKS)
    data = tmp_path / "data"
    screen = Screen(
        [sys.executable, "-m", "runfold", "run", "--workflow", "w"], environment(data, PYTHONPATH=str(ROOT)), tmp_path
    )
    try:
        screen.wait_for("Spend it? [y/n]")
        screen.type(typed)
        ended = screen.end()
    finally:
        screen.close()
    answers = [it for it in read(data, "events", "@last")["items"] if it["type"].startswith("approval_")]

    assert (ended, read(data, "status", "@last")["status"]) == (code, status)
    assert answers[-1]["type"] == ("approval_granted" if code == 0 else "approval_denied")
    assert answers[-1]["actor"]["kind"] == "user"


@pytest.mark.slow
def test_a_question_that_is_answered_elsewhere_is_asked_no_more_in_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(ASKS)
    data = tmp_path / "data"
    screen = Screen(
        [sys.executable, "-m", "runfold", "run", "--workflow", "w"], environment(data, PYTHONPATH=str(ROOT)), tmp_path
    )
    try:
        screen.wait_for("Spend it? [y/n]")
        granted = runfold(data, "approve", "@last")
        ended = screen.end()
    finally:
        screen.close()

    assert (granted.returncode, ended) == (0, 0)
    assert read(data, "status", "@last")["status"] == "completed"


STEPS = [{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c"}]


async def with_steps(served: Served, **costs: int) -> str:
    """A run of the workflow whose steps cost so much, and that failed in the end."""
    run_id = await served.open_run(workflow="w", steps=STEPS)
    for step, cost in costs.items():
        usage = {"model": "m", "input_tokens": 10, "cost_micros": cost, "step": step}
        await served.report(
            run_id,
            {"type": "step_started", "data": {"step": step}},
            {"type": "token_usage", "data": usage},
            {"type": "step_completed", "data": {"step": step}},
        )
    await served.control(run_id, "fail")
    return run_id


async def test_a_retry_and_its_plan_say_what_the_new_run_will_cost_without_what_is_reused(tmp_path: Path) -> None:
    workflows = parse_workflows(ASKS)
    async with serving(tmp_path, registry=lambda: Registry(workflows=workflows)) as served:
        run_id = await with_steps(served, a=500_000, b=300_000)

        async def ask(**body: Any) -> Any:
            return await (await served.ask("POST", f"/api/runs/{run_id}/retry", json=body)).json()

        planned, whole = await ask(from_step="b", plan=True), await ask(plan=True)
        new = await ask(from_step="b")
        (said,) = [it["data"] for it in await served.events(new["new_run_id"]) if it["type"] == "cost_estimated"]
        shown = await (await served.ask("GET", f"/api/runs/{new['new_run_id']}")).json()

    assert whole["estimate"] == {"low_usd": 2.5, "high_usd": 2.5, "basis": "the workflow's own figure"}
    assert planned["estimate"] == {
        "low_usd": 2.0, "high_usd": 2.0, "basis": "the workflow's own figure, less what is reused"
    }  # fmt: skip
    assert new["estimate"] == shown["estimate"] == planned["estimate"]
    assert (said["low_micros"], said["high_micros"]) == (2_000_000, 2_000_000)


async def test_where_no_past_run_tells_a_retry_costs_what_its_steps_took_and_nothing_is_made_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await with_steps(served, a=500_000, b=300_000, c=100_000)
        half = await with_steps(served, a=500_000)

        async def estimate(run_id: str) -> Any:
            body = {"from_step": "b", "plan": True}
            return (await (await served.ask("POST", f"/api/runs/{run_id}/retry", json=body)).json())["estimate"]

        known, unknown = await estimate(run_id), await estimate(half)

    assert known == {"low_usd": 0.3, "high_usd": 0.3, "basis": "what its steps took last time"}
    assert unknown is None


@pytest.mark.slow
def test_a_retry_in_the_terminal_says_what_it_will_cost_and_records_it(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(f"[workflow.w]\n{COMMAND}")

    def here(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "runfold", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment(tmp_path / "data"), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)  # fmt: skip

    first = here("run", "--quiet", "--workflow", "w")
    planned, retried = here("retry", "@last", "--plan"), here("retry", "@last")
    run = read(tmp_path / "data", "status", "@last")

    assert (first.returncode, retried.returncode) == (0, 0)
    assert "estimate: $0.40, from p50 and p90 of 1 past runs" in planned.stderr
    assert (run["lineage"]["retry_of"] is not None, run["estimate"]["high_usd"]) == (True, 0.4)

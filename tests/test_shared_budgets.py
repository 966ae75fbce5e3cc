"""Budgets of a workflow, a tenant and a day: read, added up, brought to every start, and kept while runs go on."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from cli.main import group
from cli.workflow_file import read_registry
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from projections.spending import Spending, budgets_of, list_budgets
from runfold import commands as c
from runfold import events as e
from runfold.budgets import BudgetRule, parse_budgets, rules_for
from runfold.envelope import run_id_of
from runfold.errors import InvalidSetting, NotAllowed
from runfold.state import Run
from runner.reactor import Reactor
from tests.given import after, here, names, when
from tests.leaving import served
from tests.logs import tomorrow_us
from tests.served import serving
from tests.working import Working, working

DAY_US = 86_400 * 1_000_000
NOON_US = 20_000 * DAY_US + DAY_US // 2
SPENDS = '{"runfold": {"type": "token_usage", "model": "m", "input_tokens": 100, "cost_micros": 600000}}'
TOML = f"""[workflow.w]
command = ['sh', '-c', '''printf "%s\\n" '{SPENDS}'''']
max_turns = 2

[workflow.quiet]
command = ['sleep', '600']
grace_seconds = 0.2

[budgets.day]
cost_usd = 1.0
"""


def day(threshold: float, **more: Any) -> BudgetRule:
    return BudgetRule(scope="day", limit="cost", threshold=threshold, per="day", **more)


def test_a_budget_has_a_scope_a_period_and_an_amount_and_says_what_follows() -> None:
    text = (
        '[budgets.day]\ncost_usd = { max = 20, on_exceed = "ask" }\n'
        '[budgets.workflow.w]\nper = "month"\ntokens = "5M:warn"\n[budgets.tenant."*"]\ncost_usd = 7\n'
    )

    assert parse_budgets(text) == (
        day(20, on_exceed="ask"),
        BudgetRule(scope="workflow", name="w", limit="tokens", threshold=5_000_000, per="month", on_exceed="warn"),
        BudgetRule(scope="tenant", name="*", limit="cost", threshold=7),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[budgets.week]\ncost_usd = 1", "line 1: `budgets.week` is not known"),
        ("[budgets.day]\nturns = 1", "line 1: `budgets.day` has `turns`"),
        ('[budgets.day]\nper = "month"\ncost_usd = 1', "`budgets.day` has `per = 'month'`"),
        ("\n[budgets.workflow.w]\ncost_usd = -1", "line 2: `budgets.workflow.w` limits.cost_usd is `-1`"),
        ("[budgets.workflow.w]", "`budgets.workflow.w` says no amount"),
        ("[budgets]\nday = 3", "`budgets.day` is not a table"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_budgets(text, file="runfold.toml")

    assert said in refused.value.message


def test_a_name_of_its_own_outweighs_the_star() -> None:
    rules = parse_budgets('[budgets.tenant."*"]\ncost_usd = 1\n[budgets.tenant.a]\ncost_usd = 9\n')

    assert [it.threshold for it in rules_for(rules, tenant="a", workflow=None)] == [9]
    assert [it.threshold for it in rules_for(rules, tenant="b", workflow=None)] == [1]


def test_a_budget_nearly_used_up_is_told_once_a_run_and_money_without_a_price_stops() -> None:
    near = c.Budget(limit="cost", scope="day", threshold=10, actual=8.5)
    unpriced = e.TokenUsage(input_tokens=10)
    run = after(here(), c.StartTurn(claim=1, started=e.TurnStarted(turn=1), budgets=(near,)))

    assert run.told == {"day:cost:warned": 10}
    assert when(run, c.CheckLimits(budgets=(near,))) == ()
    run = after(c.Observe(events=(unpriced,), claim=1), run=run)
    (told,) = when(run, c.CheckLimits(budgets=(near,)))
    assert (told.reason, told.scope, told.on_exceed) == ("price_unknown", "day", "stop")


def test_a_budget_that_asks_lets_one_run_go_on_and_gives_nobody_more() -> None:
    used_up = c.Budget(limit="cost", scope="day", threshold=10, actual=12, on_exceed="ask")
    run = after(here(), c.StartTurn(claim=1, started=e.TurnStarted(turn=1), budgets=(used_up,)))
    asked = run.approvals["a1"]

    granted = after(c.Grant(approval_id="a1", digest=asked.digest), c.Claim(worker="w"), c.Start(claim=2), run=run)
    further = c.StartTurn(claim=2, started=e.TurnStarted(turn=1), budgets=(replace(used_up, actual=15),))

    assert (run.status, run.waiting_on, run.worker) == ("paused", "approval:a1", "")
    assert (asked.summary, asked.amount_micros) == (
        "cost of the day: $12.00 of $10.00 is used. Let this run go on all the same?", None
    )  # fmt: skip
    assert granted.limits == {}
    assert names(granted, further) == ["turn_started"]


class Scene:
    """A real log with reported runs, in which it is always noon, and the clock of the test."""

    def __init__(self, log: SqliteLog, views: ViewService) -> None:
        self.log, self.views = log, views
        self.ledger = Ledger(log, now_us=lambda: NOON_US)
        self.rules: tuple[BudgetRule, ...] = ()
        self.spending = Spending(views, lambda: self.rules, now_us=lambda: NOON_US)

    async def open(self, *, tenant: str = "default", driver: e.Driver = "reported", **queued: Any) -> str:
        run_id = run_id_of(uuid.uuid4())
        order = e.RunQueued(driver=driver, **queued)
        await self.ledger.execute(run_id, c.OpenReported(queued=order), actor="user:a", tenant=tenant)
        return run_id

    async def spend(self, run_id: str, cost_micros: int, tenant: str = "default") -> None:
        usage = e.TokenUsage(input_tokens=10, cost_micros=cost_micros)
        await self.ledger.execute(run_id, c.Observe(events=(usage,)), actor="user:a", tenant=tenant)

    async def look(self, *run_ids: str, in_us: int = 0) -> list[Run]:
        """What a reactor that has just been started does."""
        runs = [await self.ledger.state(run_id) for run_id in run_ids]
        now_us = max(run.updated_at_us for run in runs) + in_us
        later = Ledger(self.log, now_us=lambda: now_us)
        return await Reactor(later, left=self.spending.left, now_us=lambda: now_us).look(runs)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    log = await SqliteLog.open(tmp_path, now_us=lambda: NOON_US)
    views = await ViewService.open(tmp_path)
    yield Scene(log, views)
    await views.close()
    await log.close()


async def test_each_budget_counts_its_own_scope_and_period_and_nothing_imported(scene: Scene) -> None:
    rules = parse_budgets(
        "[budgets.day]\ncost_usd = 1\n[budgets.workflow.w]\ncost_usd = 1\n[budgets.tenant.a]\ntokens = 100\n"
    )
    await scene.spend(await scene.open(workflow="w", tenant="a"), 300_000, "a")
    await scene.spend(await scene.open(workflow="x", tenant="b"), 200_000, "b")
    await scene.spend(await scene.open(workflow="w", driver="imported", tenant="a"), 9_000_000, "a")
    now_us = (await scene.ledger.state(await scene.open())).updated_at_us

    async def actual(in_us: int) -> list[float]:
        found, _ = await scene.views.query(budgets_of, rules, tenant="a", workflow="w", now_us=now_us + in_us)
        return [it.actual for it in found]

    assert await actual(0) == [0.5, 0.3, 10]
    assert await actual(2 * DAY_US) == [0.0, 0.3, 10]


async def test_what_is_left_is_listed_for_the_own_tenant(scene: Scene) -> None:
    rules = parse_budgets(
        '[budgets.day]\ncost_usd = 2\n[budgets.workflow."*"]\ncost_usd = 1\n[budgets.workflow.w]\ncost_usd = 9\n'
        '[budgets.tenant.b]\ncost_usd = 7\n[budgets.tenant."*"]\ntokens = 30\n'
    )
    await scene.spend(await scene.open(workflow="w", tenant="a"), 300_000, "a")
    await scene.spend(await scene.open(workflow="x", tenant="a"), 1_200_000, "a")
    await scene.spend(await scene.open(workflow="secret", tenant="b"), 100_000, "b")
    now_us = (await scene.ledger.state(await scene.open())).updated_at_us

    found, _ = await scene.views.query(list_budgets, rules, tenant="a", now_us=now_us)

    assert [(it.scope, it.name, it.spent, it.remaining) for it in found.items] == [
        ("day", "", 1.6, 0.4),
        ("workflow", "x", 1.2, 0.0),
        ("workflow", "w", 0.3, 8.7),
        ("tenant", "a", 20, 10),
    ]


async def test_what_is_left_is_the_same_over_http_and_in_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text("[budgets.day]\ncost_usd = 2\n")
    registry = read_registry(tmp_path)
    async with serving(tmp_path / "data", now_us=tomorrow_us, registry=lambda: registry) as server:
        run_id = await server.open_run()
        await server.report(run_id, {"type": "token_usage", "data": {"input_tokens": 5, "cost_micros": 500_000}})
        there = await (await server.ask("GET", "/api/budgets")).json()
    with chdir(tmp_path):
        here = CliRunner().invoke(group, ["--data", str(tmp_path / "data"), "costs", "--budgets", "--json"])
        shown = CliRunner().invoke(group, ["--data", str(tmp_path / "data"), "costs", "--budgets"])

    assert there["items"] == [
        {"scope": "day", "name": "", "per": "day", "limit": "cost", "threshold": 2.0, "spent": 0.5, "remaining": 1.5,
         "on_exceed": "stop"}
    ]  # fmt: skip
    assert json.loads(here.output) == there
    assert shown.output.splitlines()[1].split() == ["$0.50", "$1.50", "$2.00", "cost", "stop", "day", "day"]


async def test_what_others_spend_stops_the_runs_that_draw_on_the_same_budget(scene: Scene) -> None:
    scene.rules = parse_budgets("[budgets.workflow.w]\ncost_usd = 1\n")
    quiet, other = await scene.open(workflow="w"), await scene.open(workflow="x")
    loud = await scene.open(workflow="w")
    assert await scene.look(quiet, other, loud) == []
    await scene.spend(loud, 1_200_000)

    stopped = await scene.look(quiet, other, loud)

    assert [it.run_id for it in stopped] == [quiet, loud]
    run = await scene.ledger.state(quiet)
    assert (run.status, run.reason_code, run.stop_condition) == ("stopped", "COST_LIMIT_EXCEEDED", "workflow cost")
    assert (run.stop_threshold, run.stop_actual) == (1.0, 1.2)
    assert await scene.look(quiet, other, loud) == []


async def test_a_broken_file_takes_no_budget_away(scene: Scene) -> None:
    scene.rules = (day(1.0),)
    run_id = await scene.open()
    await scene.spend(run_id, 1_500_000)
    spending = Spending(scene.views, lambda: scene.rules or parse_budgets("[budgets.day]"), now_us=lambda: NOON_US)
    run = await scene.ledger.state(run_id)
    before = await spending.left(run)
    scene.rules = ()

    assert await spending.left(run) == before
    assert before[0].actual == 1.5


async def test_a_silent_reported_run_is_warned_and_stopped_when_its_time_is_up(scene: Scene) -> None:
    run_id = await scene.open(limits={"time": "60s"})

    warned = await scene.look(run_id, in_us=50_000_000)
    stopped = await scene.look(run_id, in_us=61_000_000)

    assert [it.status for it in (*warned, *stopped)] == ["running", "stopped"]
    assert stopped[0].reason_code == "TIME_LIMIT_EXCEEDED"


async def test_a_question_that_nobody_answers_expires_by_the_clock_alone(scene: Scene) -> None:
    run_id = await scene.open(limits={"cost": {"max": 1, "on_exceed": "ask"}})
    await scene.spend(run_id, 1_000_000)
    assert await scene.look(run_id, in_us=DAY_US - 1_000_000) == []

    (run,) = await scene.look(run_id, in_us=DAY_US)

    assert (run.status, run.reason_code, run.approvals["a1"].status) == ("stopped", "APPROVAL_EXPIRED", "expired")


async def test_a_step_over_http_is_told_that_the_budget_is_used_up_and_the_same_key_the_same(tmp_path: Path) -> None:
    asked: list[str] = []

    async def left(run: Run) -> tuple[c.Budget, ...]:
        asked.append(run.run_id)
        return (c.Budget(limit="cost", scope="day", threshold=10, actual=10 + len(asked)),)

    async with serving(tmp_path, left=left) as server:
        run_id = await server.open_run(steps=[{"id": "a"}])
        path, key = f"/api/runs/{run_id}/steps/a", {"Idempotency-Key": "k"}
        answers = [await server.ask("POST", path, json={"action": "start"}, headers=key) for _ in range(2)]
        first, second = [await it.json() for it in answers]

    assert (first["status"], first["reason_code"], first["changed"]) == ("stopped", "COST_LIMIT_EXCEEDED", [])
    assert [it.status for it in answers] == [200, 200]
    assert first == second
    assert asked == [run_id, run_id]


@pytest.mark.parametrize(
    ("start", "on_exceed", "status"),
    [
        ({"type": "step_started", "data": {"step": "a"}}, "stop", "stopped"),
        ({"type": "turn_started", "data": {"turn": 1}}, "stop", "stopped"),
        ({"type": "step_started", "data": {"step": "a"}}, "ask", "paused"),
    ],
)
async def test_a_start_that_is_only_reported_is_refused_while_the_budget_is_used_up(
    tmp_path: Path, start: dict[str, Any], on_exceed: Any, status: str
) -> None:
    async def left(run: Run) -> tuple[c.Budget, ...]:
        return (c.Budget(limit="cost", scope="day", threshold=10, actual=12, on_exceed=on_exceed),)

    async with serving(tmp_path, left=left) as server:
        run_id = await server.open_run(steps=[{"id": "a"}])
        fact = await server.report(run_id, {"type": "message", "data": {"text": "said"}})
        before = await server.ledger.state(run_id)
        refused = await server.report(run_id, start)
        problem = await refused.json()
        run = await server.ledger.state(run_id)
        types = [it["type"] for it in await server.events(run_id)]

    assert (fact.status, before.status, refused.status, run.status) == (200, "running", 409, status)
    assert start["type"] not in types
    assert f"`{start['type']}` has to wait" in problem["detail"]
    assert "The cost budget of the day is used up: $12.00 of $10.00" in problem["detail"]
    assert f"runfold {'resume' if on_exceed == 'stop' else 'approve'} {run_id}" in problem["hint"]


async def test_a_report_that_was_recorded_gets_its_first_answer_also_when_the_budget_is_used_up(tmp_path: Path) -> None:
    spent = 1.0

    async def left(run: Run) -> tuple[c.Budget, ...]:
        return (c.Budget(limit="cost", scope="day", threshold=10, actual=spent),)

    async with serving(tmp_path, left=left) as server:
        run_id = await server.open_run(steps=[{"id": "a"}])
        start = {"type": "step_started", "data": {"step": "a"}, "id": str(uuid.uuid4())}
        first = await (await server.report(run_id, start)).json()
        spent = 12.0
        again = await server.report(run_id, start)
        body = await again.json()

    assert (again.status, body["first"], body["duplicate"]) == (200, first["first"], True)


def test_a_run_that_stops_at_a_budget_ends_what_is_at_work_and_begins_nothing() -> None:
    used_up = c.Budget(limit="cost", scope="day", threshold=10, actual=12)
    order = e.RunQueued(driver="reported", lease_seconds=60, steps=(e.StepSpec(id="a"), e.StepSpec(id="b")))
    run = after(
        c.OpenReported(queued=order), c.Observe(events=(e.StepStarted(step="a"),)), c.CheckLimits(budgets=(used_up,))
    )

    assert run.status == "stopping"
    with pytest.raises(NotAllowed, match=r"is stopping .The cost budget of the day is used up"):
        when(run, c.Observe(events=(e.StepStarted(step="b"),)))
    assert names(run, c.Observe(events=(e.StepCompleted(step="a"),)))[0] == "step_completed"


@pytest.mark.slow
async def test_a_day_that_is_spent_starts_no_turn_and_says_what_was_spent(tmp_path: Path) -> None:
    async with working(tmp_path, TOML, now_us=tomorrow_us) as workers:
        await workers.wait_rest(first := await workers.queue("w"))
        run = await workers.wait_rest(second := await workers.queue("w"))
        types = await workers.types(second)
        earlier = await workers.ledger.state(first)

    assert earlier.status == "stopped" or earlier.cost_micros == 1_200_000
    assert (run.status, run.reason_code, run.stop_condition, run.stop_actual) == (
        "stopped", "COST_LIMIT_EXCEEDED", "day cost", 1.2
    )  # fmt: skip
    assert "turn_started" not in types
    assert names(run, c.Resume()) == ["run_resumed"]


@pytest.mark.slow
async def test_a_driver_ends_its_own_run_when_others_have_spent_the_day(tmp_path: Path) -> None:
    async with working(tmp_path, TOML, now_us=tomorrow_us) as workers:
        quiet = await workers.queue("quiet")
        await workers.wait_type(quiet, "turn_started")
        loud = await workers.queue("w")
        run = await workers.wait_rest(quiet)
        exceeded = await workers.wait_type(quiet, "limit_exceeded")
        usages = [it for it in await workers.events(loud) if it.type == "token_usage"]

    assert (run.status, run.stop_condition, run.cost_micros) == ("stopped", "day cost", None)
    # Half a second until the next look; the rest is for a machine that has much else to do.
    assert exceeded.recorded_at_us - usages[-1].recorded_at_us < 20_000_000


@pytest.mark.slow
async def test_a_killed_server_leaves_nothing_behind_that_the_next_one_has_to_remember(tmp_path: Path) -> None:
    (tmp_path / "runfold.toml").write_text(TOML)

    async def opened_run(nobody: Working, **queued: Any) -> str:
        run_id = run_id_of(uuid.uuid4())
        await nobody.execute(run_id, c.OpenReported(queued=e.RunQueued(driver="reported", **queued)))
        return run_id

    async with working(tmp_path, TOML, workers=0, now_us=tomorrow_us) as nobody:
        with served(tmp_path) as server:
            quiet, silent = await opened_run(nobody), await opened_run(nobody, limits={"time": "1s"})
            server.kill()
            server.wait(30)
        usage = e.TokenUsage(input_tokens=10, cost_micros=1_200_000)
        await nobody.execute(loud := await opened_run(nobody), c.Observe(events=(usage,)))
        with served(tmp_path):
            runs = [await nobody.wait_rest(run_id) for run_id in (quiet, silent, loud)]

    assert [run.status for run in runs] == ["stopped"] * 3
    assert [runs[0].stop_condition, runs[2].stop_condition] == ["day cost", "day cost"]
    assert runs[1].stop_condition in ("time", "day cost")

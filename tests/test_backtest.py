"""Past runs against other limits: which would have stopped, where, and what it would have saved."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runfold import commands as c
from runfold import events as e
from runfold.backtest import Backtest, backtest
from runfold.decide import decide
from runfold.envelope import Recorded
from runfold.errors import InvalidSetting
from runfold.evolve import evolve
from runfold.policy import parse_policy
from runfold.state import Run, new_run
from tests.ledgers import RUN, act, opened, stored
from tests.terminal import read, runfold

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


class Log:
    """The events of several runs in one order, made by the rules themselves, a second apart."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.runs: dict[str, Run] = {}
        self.now_us = SECOND_US

    def do(self, run_id: str, *commands: Any, seconds: float = 1) -> "Log":
        for command in commands:
            self.now_us += round(seconds * SECOND_US)
            run = self.runs.get(run_id, new_run(run_id))
            for event in decide(run, command, self.now_us):
                run = evolve(run, event, at_us=self.now_us)
                self._record(run, event)
            self.runs[run_id] = run
        return self

    def _record(self, run: Run, event: Any) -> None:
        self.events.append(
            Recorded(
                position=len(self.events) + 1, run_id=run.run_id, version=run.version, id=str(len(self.events)),
                type=e.event_type(event), schema=1, at_us=self.now_us, recorded_at_us=self.now_us, tenant=run.tenant,
                actor="system", cause=None, command=None, correlation="", sent=None, hash=b"",
                data=e.encode_data(event),
            )
        )  # fmt: skip

    def test(self, policy: str, *, since_us: int = 0) -> Backtest:
        return backtest(parse_policy(policy), self.events, since_us=since_us)


def opened_run(workflow: str = "w", **queued: Any) -> c.OpenReported:
    return c.OpenReported(queued=e.RunQueued(workflow=workflow, **queued))


def spend(dollars: float, **more: Any) -> c.Observe:
    usage = e.TokenUsage(input_tokens=10, cost_micros=round(dollars * 1_000_000), **more)
    return c.Observe(events=(usage,))


DONE = c.Complete()


def test_a_run_would_have_stopped_at_the_event_that_breaks_the_limit_and_saved_what_came_after() -> None:
    log = Log().do("a", opened_run(), *[spend(0.3)] * 6, DONE).do("b", opened_run(), spend(0.3), DONE)

    found = log.test("[limits]\ncost_usd = 1.0")

    (item,) = found.items
    assert (item.run_id, item.limit, item.threshold, item.actual) == ("a", "cost", 1.0, 1.2)
    assert (item.type, item.version, item.position) == ("token_usage", 6, 6)
    assert (item.spent_usd, item.saved_usd, item.saved_tokens, item.saved_ms) == (1.2, 0.6, 20, 3_000)
    assert (found.runs, found.stopped, found.spent_usd, found.saved_usd) == (2, 1, 2.1, 0.6)
    assert item.status == "completed"


def test_the_limits_that_a_run_had_or_was_given_are_not_those_of_the_policy() -> None:
    log = Log().do("a", opened_run(limits={"cost": 0.5}), spend(0.6), c.Resume(limits={"cost": 9}), spend(0.6), DONE)

    assert log.test("[limits]\ncost_usd = 2").items == ()
    (item,) = log.test("[limits]\ncost_usd = 1").items
    assert (item.actual, item.version) == (1.2, 7)


def test_a_policy_may_be_of_one_workflow_only() -> None:
    log = Log().do("a", opened_run("w"), spend(2)).do("b", opened_run("x"), spend(2))

    found = log.test("[limits]\ncost_usd = 9\n[workflow.x]\ncommand = ['y']\n[workflow.x.limits]\ncost_usd = 1")

    assert [it.run_id for it in found.items] == ["b"]


def test_time_would_have_been_up_before_the_event_that_shows_it() -> None:
    log = Log().do("a", opened_run()).do("a", DONE, seconds=100)

    (item,) = log.test("[limits]\ntime = '60s'").items

    assert (item.type, item.saved_ms) == ("run_completed", 40_000)
    assert item.at.startswith("1970-01-01T00:01:02")


def test_a_step_would_have_been_stopped_alone() -> None:
    steps = (e.StepSpec(id="s"), e.StepSpec(id="t"))
    log = Log().do("a", opened_run(steps=steps), c.StartStep(step="s"), *[spend(1, step="s")] * 3, spend(5, step="t"))

    (item,) = log.test("[workflow.w]\nsteps = [{ id = 's', limits = { cost = 2 } }]").items

    assert (item.scope, item.spent_usd, item.saved_usd) == ("step:s", 2.0, 1.0)
    assert log.test("[limits]\n'step:s:cost' = 2").stopped == 0


def test_a_budget_is_spent_by_all_and_not_by_what_the_policy_had_stopped() -> None:
    log = Log().do("a", opened_run(), spend(1.5), spend(9), DONE)
    log.do("b", opened_run(), spend(0.4), spend(0.4), spend(0.4), DONE)
    log.do("i", c.OpenReported(queued=e.RunQueued(driver="imported", workflow="w")), spend(50))

    found = log.test("[limits]\ncost_usd = 1\n[budgets.day]\ncost_usd = 2.3")

    assert [(it.run_id, it.scope, it.actual) for it in found.items if it.run_id != "i"] == [
        ("a", "run", 1.5), ("b", "day", 2.3)
    ]  # fmt: skip
    assert [it.scope for it in found.items if it.run_id == "i"] == ["run"]


def test_what_only_warns_stops_nothing_and_what_has_no_price_is_said() -> None:
    log = Log().do("a", opened_run(), c.Observe(events=(e.TokenUsage(input_tokens=5),)), DONE)

    assert log.test("[limits]\ntokens = '1:warn'").items == ()
    (item,) = log.test("[limits]\ncost_usd = 1").items
    assert (item.reason, item.saved_usd) == ("price_unknown", None)


def test_only_runs_that_were_opened_since_then_are_looked_at() -> None:
    log = Log().do("a", opened_run(), spend(2))
    since_us = log.now_us + 1
    log.do("b", opened_run(), spend(2)).do("a", spend(2))

    found = log.test("[limits]\ncost_usd = 1", since_us=since_us)

    assert ([it.run_id for it in found.items], found.runs) == (["b"], 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 900_000), max_size=12), st.integers(1, 30))
def test_the_back_test_stops_where_the_very_limit_would_have_stopped_the_run(costs: list[int], tenths: int) -> None:
    spending = [spend(cost / 1_000_000) for cost in costs]
    log = Log().do("a", opened_run(), *spending)
    limited = Log().do("a", opened_run(limits={"cost": tenths / 10}))
    for command in spending:
        if limited.runs["a"].status == "running":
            limited.do("a", command)

    found = log.test(f"[limits]\ncost_usd = {tenths / 10}")

    stopped = limited.runs["a"].status == "stopped"
    assert bool(found.items) == stopped
    if stopped:
        assert found.items[0].actual == limited.runs["a"].stop_actual


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "says no limits"),
        ("[limits]\ncots = 1", "`limits`: limits.cots is no limit"),
        ("[workflow.w.limits]\ncost = -1", "line 1: `workflow.w`: limits.cost is `-1`"),
        ("limits = 3", "`limits`: is not a table"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_policy(text, file="other.toml")

    assert said in refused.value.message


def names(items: Sequence[dict[str, Any]]) -> list[str]:
    return [item["run_id"] for item in items]


@pytest.mark.slow
async def test_recorded_runs_are_tested_from_the_terminal_and_nothing_is_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with opened(data) as ledger:
        for _ in range(4):
            await act(ledger, spend(0.5))
        await act(ledger, DONE)
    before = len(stored(data))
    policy = tmp_path / "other.toml"
    policy.write_text("[limits]\ncost_usd = 1.0\n")

    shown = runfold(data, "replay", "--limits", str(policy))
    found = read(data, "replay", "--limits", str(policy), "--since", "1d")
    older = read(data, "replay", "--limits", str(policy), "--since", "2999-01-01T00:00:00Z")
    neither = runfold(data, "replay")

    assert names(found["items"]) == [RUN]
    assert (found["items"][0]["saved_usd"], found["stopped"], older["runs"]) == (1.0, 1, 0)
    assert "cost $1.00 of $1.00" in shown.stdout
    assert "1 of 1 runs would have stopped; $1.00 of $2.00 saved" in shown.stderr
    assert "note: 1 of them completed in truth" in shown.stderr
    assert neither.returncode == 2
    assert len(stored(data)) == before
    assert json.dumps(found)

"""A limit is told in the same append as the fact that broke it, and what it stops is stopped."""

from typing import Any

import pytest

from runfold import commands as c
from runfold import events as e
from runfold.errors import BadRequest, NotAllowed
from runfold.limits import parse_limits, parse_pairs
from runfold.report import report
from runfold.snapshot import snapshot
from runfold.state import Run
from tests.given import SECOND_US, after, graph, here, names, observe, reported, when

TURN_COSTS = e.TokenUsage(input_tokens=10, cost_micros=300_000)


def spent(times: int, **limits: Any) -> Run:
    """A run here with a turn open, after usage of $0.30 each."""
    return after(
        here(limits=limits),
        c.StartTurn(claim=1, started=e.TurnStarted(turn=1)),
        *[observe(TURN_COSTS, claim=1)] * times,
    )


def test_a_budget_of_one_dollar_stops_at_the_fourth_turn_of_thirty_cents() -> None:
    run = spent(3, cost=1.0)
    assert run.status == "running"

    usage, exceeded = when(run, observe(TURN_COSTS, claim=1))

    assert usage == TURN_COSTS
    assert exceeded == e.LimitExceeded(limit="cost", threshold=1.0, actual=1.2, overshoot=0.2)
    run = after(observe(TURN_COSTS, claim=1), run=run)
    assert (run.status, run.reason_code) == ("stopping", "STOPPING")
    run = after(c.EndTurn(claim=1, ended=e.TurnCancelled(turn=1)), run=run)
    (stopped,) = when(run, c.Complete(claim=1, reason_code="EXIT_ZERO"))
    assert (stopped.reason_code, stopped.condition, stopped.threshold, stopped.actual) == (
        "COST_LIMIT_EXCEEDED", "cost", 1.0, 1.2
    )  # fmt: skip
    details = report(after(c.Complete(claim=1, reason_code="EXIT_ZERO"), run=run)).details
    assert (details["stop_condition"], details["threshold"], details["actual_value"]) == ("cost", 1.0, 1.2)


def test_with_no_turn_open_a_stop_is_all_one_append() -> None:
    run = after(reported(limits={"cost": 1}), observe(*[TURN_COSTS] * 3))

    assert names(run, observe(e.ToolCalled(tool="x", call_id="1"), TURN_COSTS)) == [
        "tool_called", "token_usage", "limit_exceeded", "tool_returned", "run_stopped"
    ]  # fmt: skip


def test_a_reporter_with_a_lease_and_work_at_hand_is_asked_to_stop() -> None:
    run = after(reported(limits={"cost": 1}, lease_seconds=30.0), observe(e.StepStarted(step="a"), *[TURN_COSTS] * 4))

    assert run.status == "stopping"
    assert names(run, c.Stop()) == ["step_cancelled", "run_stopped"]
    assert after(c.Stop(), run=run).reason_code == "COST_LIMIT_EXCEEDED"


def test_a_limit_that_warns_is_told_once_and_stops_nothing() -> None:
    run = spent(3, cost="1:warn")

    assert names(run, observe(TURN_COSTS, claim=1)) == ["token_usage", "limit_exceeded"]
    run = after(observe(TURN_COSTS, claim=1), run=run)
    assert run.status == "running"
    assert names(run, observe(TURN_COSTS, claim=1)) == ["token_usage"]


def test_at_four_fifths_of_the_money_a_warning_comes_once() -> None:
    run = spent(2, cost=1.0)

    assert names(run, observe(TURN_COSTS, claim=1)) == ["token_usage", "limit_warned"]
    assert names(spent(3, cost=1.2), observe(e.TokenUsage(cost_micros=1), claim=1)) == ["token_usage"]


def test_a_limit_that_asks_pauses_after_the_turn_and_gives_the_claim_back() -> None:
    run = after(observe(TURN_COSTS, claim=1), run=spent(3, cost={"max": 1, "on_exceed": "ask"}))
    assert (run.status, run.hit is not None) == ("pausing", True)

    run = after(c.EndTurn(claim=1, ended=e.TurnCancelled(turn=1)), run=run)

    assert names(run, c.Paused(claim=1)) == ["approval_requested", "run_paused", "claim_released"]
    run = after(c.Paused(claim=1), run=run)
    assert (run.reason_code, run.waiting_on, run.worker) == ("AWAITING_APPROVAL", "approval:a1", "")


def test_usage_of_unknown_price_stops_a_run_with_a_cost_limit_unless_it_was_asked_otherwise() -> None:
    unknown = e.TokenUsage(input_tokens=5)

    assert names(spent(1, cost=5), observe(unknown, claim=1)) == ["token_usage", "limit_exceeded"]
    (_, told) = when(spent(1, cost=5), observe(unknown, claim=1))
    assert told.reason == "price_unknown"
    assert after(observe(unknown, claim=1), run=spent(1, cost=5, on_unknown_price="warn")).status == "running"
    assert after(observe(unknown, claim=1), run=spent(1, tokens=500)).status == "running"
    provisional = e.TokenUsage(input_tokens=5, semantics="provisional")
    assert names(spent(1, cost=5), observe(provisional, claim=1)) == ["token_usage"]


def called(tool: str, *results: str) -> list[Any]:
    """Calls of a tool, each with its result."""
    pairs = (
        (e.ToolCalled(tool=tool, call_id=f"{n}"), e.ToolReturned(call_id=f"{n}", result=result))
        for n, result in enumerate(results)
    )
    return [event for pair in pairs for event in pair]


@pytest.mark.parametrize(
    "events",
    [
        called("ls", "one", "two", "three"),
        called("ls", "x" * 300 + "1", "x" * 300 + "2", "x" * 300 + "3"),
        [e.ToolCalled(tool="ls", call_id=str(n)) for n in range(3)],
        [*called("ls", "same", "same"), *called("cat", "same"), *called("ls", "same")],
        [e.CommandExecuted(command="make", exit_code=2, output_tail=f"{n} errors") for n in (9, 5, 1)],
    ],
)
def test_a_call_that_is_repeated_until_its_result_changes_is_no_stuck_loop(events: list[Any]) -> None:
    run = after(here(limits={"stuck_loop": 3}), observe(*events, claim=1))

    assert (run.status, run.hit) == ("running", None)


@pytest.mark.parametrize(
    ("limits", "events", "code"),
    [
        ({"tokens": 10}, [e.TokenUsage(input_tokens=6, output_tokens=4)], "TOKEN_LIMIT_EXCEEDED"),
        ({"consecutive_fails": 2}, [e.UnitFailed(unit="a"), e.UnitRejected(unit="b")], "CONSECUTIVE_FAILS"),
        ({"attempts": 2}, [e.UnitStarted(unit="a", attempt=n) for n in (1, 2, 3)], "CIRCUIT_BREAKER"),
        ({"stuck_loop": 3}, called("ls", "same", "same", "same"), "STUCK_LOOP"),
        ({"stuck_loop": 2}, [e.CommandExecuted(command="ls")] * 2, "STUCK_LOOP"),
        (
            {"reject_rate": "50%"},
            [*[e.UnitApproved(unit="a")], *[e.UnitRejected(unit=n) for n in "bcd"]],
            "REJECT_RATE_EXCEEDED",
        ),
        (
            {"retry_rate": 0.5},
            [
                e.UnitStarted(unit=unit, attempt=attempt)
                for attempt, units in ((1, "abcd"), (2, "abc"))
                for unit in units
            ],
            "RETRY_RATE_EXCEEDED",
        ),
    ],
)
def test_each_limit_stops_the_run_with_its_reason_in_the_same_append(limits: Any, events: Any, code: str) -> None:
    run = after(reported(limits=limits), *([observe(*events[:-1])] if events[:-1] else []))
    assert run.status == "running"

    made = when(run, observe(events[-1]))

    assert isinstance(made[1], e.LimitExceeded)
    assert made[-1].reason_code == code


def test_a_rate_of_few_units_says_nothing_yet() -> None:
    run = after(reported(limits={"reject_rate": 0.3}))

    assert names(run, observe(*[e.UnitRejected(unit=n) for n in "abc"])) == ["unit_rejected"] * 3


def test_a_turn_too_many_is_not_started() -> None:
    run = spent(0, turns=1)
    run = after(c.EndTurn(claim=1, ended=e.TurnCompleted(turn=1)), run=run)

    assert names(run, c.StartTurn(claim=1, started=e.TurnStarted(turn=2))) == ["limit_exceeded", "run_stopped"]


def test_time_counts_only_while_the_run_goes_on() -> None:
    run = after(reported(limits={"time": "60s"}))
    begun = run.updated_at_us
    run = after(c.Pause(), run=run, now_us=begun + 20 * SECOND_US)
    run = after(c.Resume(), run=run, now_us=begun + 1_000 * SECOND_US)

    assert names(run, c.CheckLimits(), now_us=begun + 1_030 * SECOND_US) == ["limit_warned"]
    assert when(run, c.CheckLimits(), now_us=begun + 1_020 * SECOND_US) == ()
    assert names(run, c.CheckLimits(), now_us=begun + 1_040 * SECOND_US) == ["limit_exceeded", "run_stopped"]


@pytest.mark.parametrize("on_exceed", ["stop", "ask", "warn"])
def test_what_is_left_for_everybody_is_an_argument_of_the_start(on_exceed: Any) -> None:
    run = after(here(), c.StartTurn(claim=1, started=e.TurnStarted(turn=1)),
                c.EndTurn(claim=1, ended=e.TurnCompleted(turn=1)))  # fmt: skip
    used_up = c.Budget(limit="cost", scope="day", threshold=10, actual=10.5, on_exceed=on_exceed)

    made = names(run, c.StartTurn(claim=1, started=e.TurnStarted(turn=2), budgets=(used_up,)))

    assert (
        made
        == {
            "stop": ["limit_exceeded", "run_stopped"],
            "ask": ["limit_exceeded", "approval_requested", "run_paused", "claim_released"],
            "warn": ["limit_exceeded", "turn_started"],
        }[on_exceed]
    )
    assert names(run, c.CheckLimits(budgets=(used_up,)))[0] == "limit_exceeded"


def test_a_steps_own_limit_fails_the_step_and_not_the_run() -> None:
    steps = (e.StepSpec(id="a", limits={"cost": 0.5, "attempts": 1}), e.StepSpec(id="b"))
    run = after(reported(steps=steps), c.StartStep(step="a"), observe(TURN_COSTS))

    usage, exceeded, failed = when(run, observe(TURN_COSTS))

    assert (exceeded.scope, exceeded.overshoot) == ("step:a", 0.1)
    assert (failed.step, failed.error.code) == ("a", "COST_LIMIT_EXCEEDED")
    run = after(observe(TURN_COSTS), run=run)
    assert (run.status, run.step_states["a"].status) == ("running", "failed")
    assert "step_started" not in names(run, c.StartStep(step="a"))
    assert usage == TURN_COSTS


def test_a_step_whose_turn_is_open_fails_when_its_driver_has_ended_it() -> None:
    steps = (e.StepSpec(id="a", command=("x",), limits={"cost": 0.5}),)
    run = after(c.StartHere(queued=e.RunQueued(steps=steps), worker="w"), c.StartStep(step="a", claim=1),
                c.StartTurn(claim=1, started=e.TurnStarted(turn=1, step="a")),
                observe(TURN_COSTS, TURN_COSTS, claim=1))  # fmt: skip
    assert (run.status, set(run.step_hits), run.step_states["a"].status) == ("running", {"a"}, "running")

    assert names(run, c.EndTurn(claim=1, ended=e.TurnCancelled(turn=1))) == ["turn_cancelled", "step_failed"]


def test_ten_parallel_steps_overspend_by_no_more_than_what_was_in_flight_and_it_is_written_down() -> None:
    run = after(here(steps=graph(*(f"s{n}" for n in range(10))), limits={"cost": 1.0}))
    for n in range(10):
        run = after(c.StartStep(step=f"s{n}", claim=1),
                    c.StartTurn(claim=1, started=e.TurnStarted(turn=n + 1, step=f"s{n}")), run=run)  # fmt: skip
    usages = [e.TokenUsage(input_tokens=1, cost_micros=300_000, step=f"s{n}") for n in range(10)]
    run = after(*[observe(usage, claim=1) for usage in usages], run=run)

    assert run.status == "stopping"
    assert run.cost_micros == 3_000_000
    assert snapshot(run, position=1).limits["cost"].spent == 3.0
    with pytest.raises(NotAllowed):
        when(run, c.StartTurn(claim=1, started=e.TurnStarted(turn=11)))
    ended = [c.EndTurn(claim=1, ended=e.TurnCancelled(turn=n + 1, step=f"s{n}")) for n in range(10)]
    stopped = after(*ended, c.Complete(claim=1), run=run)
    assert (stopped.stop_threshold, stopped.stop_actual) == (1.0, 3.0)


def test_a_stopped_run_goes_on_only_with_more_than_it_has_used() -> None:
    run = after(reported(limits={"cost": 1}), observe(*[TURN_COSTS] * 4))
    assert run.status == "stopped"

    with pytest.raises(NotAllowed, match=r"\$1.20 of \$1.00") as refused:
        when(run, c.Resume())
    assert "--limit cost=2.2" in refused.value.hint
    run = after(c.Resume(limits={"cost": 2}), run=run)
    assert run.status == "running"
    assert after(observe(*[TURN_COSTS] * 3), run=run).status == "stopped"


def test_imported_runs_never_count_for_limits() -> None:
    run = after(c.OpenReported(queued=e.RunQueued(driver="imported", limits={"cost": 1})))

    assert names(run, observe(*[TURN_COSTS] * 9)) == ["token_usage"] * 9


def test_late_usage_of_a_stopped_run_is_taken_and_stops_it_no_second_time() -> None:
    run = after(reported(limits={"cost": 1}), c.Stop(), observe(*[TURN_COSTS] * 3))

    assert names(run, observe(TURN_COSTS)) == ["token_usage", "limit_exceeded"]
    assert after(observe(TURN_COSTS), run=run).status == "stopped"


@pytest.mark.parametrize(
    ("text", "threshold", "on_exceed"),
    [
        ("cost=2.50", 2.5, "stop"), ("cost=$2", 2, "stop"), ("cost=2:ask", 2, "ask"), ("tokens=200k", 200_000, "stop"),
        ("tokens=1.5M:warn", 1_500_000, "warn"), ("time=90", 90, "stop"), ("time=30m", 1_800, "stop"),
        ("wall_time=2h", 7_200, "stop"), ("retry_rate=25%", 0.25, "stop"), ("step:a:cost=1", 1, "stop"),
    ],
)  # fmt: skip
def test_a_limit_is_written_as_people_write_it(text: str, threshold: float, on_exceed: str) -> None:
    (limit,) = parse_limits(parse_pairs([text]))

    assert (limit.threshold, limit.on_exceed) == (threshold, on_exceed)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"money": 1}, "limits.money is no limit of a run"),
        ({"cost": "much"}, "limits.cost is `much`, not US dollars above 0"),
        ({"cost": -1}, "limits.cost is `-1`"),
        ({"cost": 0}, "limits.cost is `0`"),
        ({"cost": True}, "limits.cost is `True`"),
        ({"cost": float("nan")}, "limits.cost is `nan`"),
        ({"cost": None}, "limits.cost is `None`"),
        ({"cost": "1:explode"}, "`explode` is not what can follow"),
        ({"cost": {"max": 1, "then": "ask"}}, "limits.cost.then is not known"),
        ({"retry_rate": 40}, "limits.retry_rate is `40`, more than all"),
        ({"time": "1y"}, "limits.time is `1y`"),
        ({"step:a:retry_rate": 1}, "is no limit of a step"),
        ({"on_unknown_price": "shrug"}, "limits.on_unknown_price is `shrug`"),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused_naming_it(limits: Any, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        after(reported(limits=limits))

    assert said in refused.value.message
    assert refused.value.hint


def test_a_limit_without_a_value_is_refused() -> None:
    with pytest.raises(BadRequest, match="has no value"):
        parse_pairs(["cost"])


def test_a_snapshot_says_what_is_left() -> None:
    made = snapshot(spent(2, cost="1:ask"), position=1).limits["cost"]

    assert (made.threshold, made.spent, made.remaining, made.on_exceed, made.exceeded) == (1, 0.6, 0.4, "ask", False)

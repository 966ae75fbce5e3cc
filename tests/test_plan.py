"""A retry's plan says what is reused, what runs again and why, and what that took last time."""

import pytest

from runfold import commands as c
from runfold import events as e
from runfold.errors import BadRequest
from runfold.plan import cache_key, plan_retry
from runfold.state import Run
from tests.given import after, done, graph, observe, reported

STEPS = graph("a", "b: a", "c: b", "d: a", "x")


def ended() -> Run:
    return after(
        reported(steps=STEPS), *done("a"), c.StartStep(step="b"),
        observe(e.TokenUsage(input_tokens=1, cost_micros=5, step="b")), c.CompleteStep(step="b"), *done("c", "d"),
        c.StartStep(step="x"), c.FailStep(step="x"), c.Fail(reason_code="STEP_FAILED"),
    )  # fmt: skip


def test_a_retry_from_a_step_reuses_what_does_not_rest_on_it_and_reruns_what_had_failed() -> None:
    plan = plan_retry(ended(), "b")

    assert plan.reused == ("a", "d")
    assert plan.rerun == ("b", "c", "x")
    assert {it.step: it.because_of for it in plan.steps} == {"a": None, "b": None, "c": "b", "d": None, "x": None}
    assert (plan.cost_micros, plan.unknown) == (5, ("c", "x"))
    assert plan.duration_ms == 4_000


def test_a_whole_retry_reuses_nothing() -> None:
    assert plan_retry(ended()).reused == ()


def test_what_rests_on_a_step_that_has_to_run_again_runs_again_wherever_it_stands_in_the_graph() -> None:
    run = after(reported(steps=graph("z: y", "y", "w")), *done("y", "z", "w"), c.MarkRerun(step="y"), c.Complete())

    plan = plan_retry(run, "w")

    assert plan.rerun == ("z", "y", "w")


def test_a_plan_from_an_unknown_step_is_refused() -> None:
    with pytest.raises(BadRequest, match="no step `nope`"):
        plan_retry(ended(), "nope")


def test_a_plan_changes_nothing() -> None:
    run = ended()
    before = run

    plan_retry(run, "b")

    assert run == before


def test_a_cache_key_depends_on_the_command_its_inputs_and_the_outputs_of_its_needs_and_on_no_order() -> None:
    key = cache_key(("make",), {"a": "1", "b": "2"}, {"n": "3"})

    assert key == cache_key(("make",), {"b": "2", "a": "1"}, {"n": "3"})
    assert len({key, cache_key(("make", "x"), {"a": "1", "b": "2"}, {"n": "3"}),
                cache_key(("make",), {"a": "1", "b": "9"}, {"n": "3"}),
                cache_key(("make",), {"a": "1", "b": "2"}, {"n": "4"})}) == 4  # fmt: skip

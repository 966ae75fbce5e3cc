"""For random graphs and histories nothing runs before its needs, and what must run again is exactly that."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runfold import commands as c
from runfold import events as e
from runfold.decide import decide
from runfold.errors import Refused
from runfold.evolve import evolve
from runfold.graph import downstream, upstream
from runfold.report import metrics
from runfold.state import Run, new_run
from runfold.step_states import PENDING

STEP = "abcdefg"


@st.composite
def graphs(draw: Any) -> tuple[e.StepSpec, ...]:
    """Each step may need those before it; the order in the file is another one."""
    size = draw(st.integers(1, len(STEP)))
    steps = [
        e.StepSpec(id=name, needs=tuple(draw(st.sets(st.sampled_from(STEP[:index]))) if index else ()))
        for index, name in enumerate(STEP[:size])
    ]
    return tuple(draw(st.permutations(steps)))


wishes = st.tuples(
    st.sampled_from([c.StartStep, c.CompleteStep, c.FailStep, c.SkipStep, c.MarkRerun, c.ResetStep]),
    st.sampled_from(STEP),
)


def status(run: Run, step: str) -> str:
    return run.step_states.get(step, PENDING).status


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps=graphs(), history=st.lists(wishes, max_size=60))
def test_needs_rerun_is_exactly_the_completed_steps_reachable_from_what_changed(steps: Any, history: Any) -> None:
    run = new_run("r_x")
    for event in decide(run, c.OpenReported(queued=e.RunQueued(steps=steps)), 0):
        run = evolve(run, event, at_us=0)
    stale: set[str] = set()

    for at_us, (wish, step) in enumerate(history, 1):
        before = run
        try:
            events = decide(run, wish(step=step), at_us)
        except Refused:
            continue
        for event in events:
            run = evolve(run, event, at_us=at_us)
        after = set(downstream(steps, step))
        marked = {it.step for it in events if isinstance(it, e.StepMarkedForRerun)}
        if wish is c.StartStep:
            assert all(status(before, need) in ("completed", "skipped") for spec in steps if spec.id == step
                       for need in spec.needs)  # fmt: skip
            stale.discard(step)
        elif wish in (c.MarkRerun, c.ResetStep) and events:
            completed = {name for name in after if status(before, name) == "completed"}
            assert marked - {step} == completed
            stale |= {name for name in (*after, step) if status(before, name) == "running"}
        elif wish is c.CompleteStep:
            assert (status(run, step) == "needs_rerun") == (step in stale)
            stale.discard(step)
        else:
            assert not marked
            stale.discard(step)
        for spec in steps:
            if status(run, spec.id) == "completed":
                # A completed step rests on nothing that has to run again.
                assert all(status(run, name) != "needs_rerun" for name in upstream(steps, spec.id))


units = st.lists(
    st.tuples(
        st.sampled_from([e.UnitStarted, e.UnitApproved, e.UnitRejected, e.UnitFailed]),
        st.sampled_from("uvw"),
        st.integers(1, 3),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(history=units, total=st.integers(1, 9))
def test_metrics_equal_a_naive_recount_of_the_events(history: Any, total: int) -> None:
    events = [kind(unit=unit, attempt=attempt) for kind, unit, attempt in history]
    run = new_run("r_x")
    for event in (e.RunQueued(units_total=total), e.RunStarted(), *events):
        run = evolve(run, event, at_us=1)

    last: dict[str, Any] = {it.unit: it for it in events}
    approved = sum(isinstance(it, e.UnitApproved) for it in events)
    rejected = sum(isinstance(it, e.UnitRejected) for it in events)
    failed = sum(isinstance(it, e.UnitRejected | e.UnitFailed) for it in last.values())
    counted = metrics(run)
    assert counted["units_completed"] == approved
    assert counted["units_failed"] == failed
    assert counted["units_remaining"] == max(0, total - approved - failed)
    assert counted["total_attempts"] == sum(isinstance(it, e.UnitStarted) for it in events)
    assert counted["reject_rate"] == (rejected / (approved + rejected) if approved + rejected else 0)


spendings = st.lists(st.integers(0, 500_000), min_size=1, max_size=12)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(amounts=spendings, limit=st.integers(1, 20), rule=st.sampled_from(["warn", "ask", "stop"]))
def test_no_limit_is_passed_without_its_event_in_the_same_append(amounts: Any, limit: int, rule: str) -> None:
    run = new_run("r_x")
    threshold_micros = limit * 100_000
    opening = c.OpenReported(queued=e.RunQueued(limits={"cost": f"{limit / 10}:{rule}"}))
    told = 0

    for at_us, command in enumerate(
        [opening, *(c.Observe(events=(e.TokenUsage(input_tokens=1, cost_micros=amount),)) for amount in amounts)]
    ):
        before = run.cost_micros or 0
        events = decide(run, command, at_us)
        for event in events:
            run = evolve(run, event, at_us=at_us)
        exceeded = [it for it in events if isinstance(it, e.LimitExceeded)]
        told += len(exceeded)
        assert bool(exceeded) == (before < threshold_micros <= (run.cost_micros or 0))

    over = (run.cost_micros or 0) >= threshold_micros
    assert told == over
    assert run.status == ({"warn": "running", "ask": "paused", "stop": "stopped"}[rule] if over else "running")

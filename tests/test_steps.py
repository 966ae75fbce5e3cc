"""Steps run when their needs are met, and what rests on a changed step runs again."""

from typing import Any

import pytest

from runfold import commands as c
from runfold import events as e
from runfold.errors import AlreadyFinal, BadRequest, NotAllowed
from runfold.graph import downstream, find_cycle
from runfold.snapshot import snapshot
from runfold.state import Run
from runfold.steps import ready, unmet
from tests.given import after, done, graph, names, observe, reported, when

ANALYSIS = graph(
    "phase_0", "phase_1: phase_0", "phase_2: phase_0", "phase_3: phase_2", "phase_5: phase_2", "phase_3_5: phase_3",
    "phase_4: phase_3", "phase_6: phase_4", "phase_7: phase_4", "phase_8: phase_7", "phase_8_5: phase_8",
    "phase_9: phase_8_5", "phase_10a: phase_9", "phase_10b: phase_9", "phase_11: phase_9", "phase_12: phase_11",
)  # fmt: skip
ALL = tuple(step.id for step in ANALYSIS)
DIAMOND = graph("a", "b: a", "c: a", "d: b c")


def statuses(run: Run) -> dict[str, str]:
    return {name: state.status for name, state in run.step_states.items()}


def marked(run: Run, command: Any) -> dict[str, str | None]:
    return {it.step: it.because_of for it in when(run, command) if isinstance(it, e.StepMarkedForRerun)}


def test_a_rerun_of_phase_2_cascades_to_exactly_its_thirteen_descendants_each_with_the_cause() -> None:
    run = after(reported(steps=ANALYSIS), *done(*ALL))

    marks = marked(run, c.MarkRerun(step="phase_2", reason="new data"))

    assert marks.pop("phase_2") is None
    assert set(marks) == set(ALL) - {"phase_0", "phase_1", "phase_2"}
    assert len(marks) == 13
    assert set(marks.values()) == {"phase_2"}
    assert snapshot(after(c.MarkRerun(step="phase_2"), run=run), position=1).steps.by_status == {
        "completed": 2,
        "needs_rerun": 14,
    }


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (graph("a", "b: x"), r"steps\[1\].needs\[0\]: step `b` needs `x`"),
        (graph("a", "b", "a"), r"steps\[2\].id `a` is also the id of steps\[0\]"),
        (graph("z", "a: c", "b: a", "c: b"), r"steps\[1\].needs: .*a -> c -> b -> a"),
        (graph("a: a"), "a -> a"),
        (graph(": "), r"steps\[0\].id is empty"),
    ],
)
@pytest.mark.parametrize("opening", [c.Queue, c.OpenReported])
def test_a_graph_that_cannot_run_is_refused_with_the_path_of_the_fault(steps: Any, said: str, opening: Any) -> None:
    with pytest.raises(BadRequest, match=said):
        after(opening(queued=e.RunQueued(steps=steps)))


def test_a_need_named_twice_is_one_need() -> None:
    assert find_cycle(graph("a", "b: a a")) == ()
    assert downstream(graph("a", "b: a a"), "a") == ("b",)


def test_a_start_is_refused_while_needs_are_unmet_saying_which() -> None:
    run = after(reported(steps=DIAMOND), *done("a", "b"))

    assert unmet(run, "d") == ("c",)
    with pytest.raises(NotAllowed, match=r"it needs `c` \(pending\)"):
        when(run, c.StartStep(step="d"))
    assert statuses(after(*done("c", "d"), run=run))["d"] == "completed"


@pytest.mark.parametrize("status", ["pending", "failed", "needs_rerun", "cancelled"])
def test_a_step_starts_from_every_state_that_is_not_done_and_counts_its_attempts(status: str) -> None:
    reach: dict[str, tuple[Any, ...]] = {
        "pending": (),
        "failed": (c.StartStep(step="a"), c.FailStep(step="a")),
        "needs_rerun": (*done("a"), c.MarkRerun(step="a")),
        "cancelled": (c.StartStep(step="a"), c.Stop(), c.Resume()),
    }
    run = after(reported(steps=DIAMOND), *reach[status])
    assert statuses(run).get("a", "pending") == status

    (started,) = when(run, c.StartStep(step="a"))

    assert started.attempt == (1 if status == "pending" else 2)


@pytest.mark.parametrize(
    ("reach", "command", "said"),
    [
        (done("a"), c.StartStep(step="a"), "completed and cannot start"),
        ((c.StartStep(step="a"),), c.StartStep(step="a"), "running and cannot start"),
        ((), c.CompleteStep(step="a"), "pending and cannot end"),
        (done("a"), c.FailStep(step="a"), "completed and cannot end"),
        ((c.StartStep(step="a"),), c.SkipStep(step="a"), "running and cannot be skipped"),
        ((), c.MarkRerun(step="a"), "pending and cannot be rerun"),
        ((c.StartStep(step="a"),), c.ResetStep(step="a"), "running and cannot be reset"),
        ((c.StartStep(step="a"),), c.ResetAll(), "has running steps"),
        ((), c.StartStep(step="x"), "no step `x`"),
        ((c.SkipStep(step="a"),), c.StartStep(step="a"), "skipped and cannot start"),
        ((c.Pause(),), c.StartStep(step="a"), "is paused: step `a` cannot start"),
    ],
)
def test_what_a_step_may_not_do_now_is_refused(reach: Any, command: Any, said: str) -> None:
    with pytest.raises(NotAllowed, match=said):
        when(after(reported(steps=DIAMOND), *reach), command)


def test_a_reporter_that_sends_steps_as_telemetry_obeys_the_same_rules() -> None:
    run = after(reported(steps=DIAMOND))
    with pytest.raises(NotAllowed, match="it needs `a`"):
        when(run, observe(e.StepStarted(step="b")))

    run = after(observe(e.StepStarted(step="a"), e.StepCompleted(step="a"), e.StepStarted(step="b"),
                        e.StepCompleted(step="b")), run=run)  # fmt: skip
    assert names(run, observe(e.StepMarkedForRerun(step="a"), e.StepStarted(step="a"))) == [
        "step_marked_for_rerun",
        "step_marked_for_rerun",
        "step_started",
    ]


def test_pending_and_failed_steps_stay_what_they_are_and_what_lies_beyond_them_reruns() -> None:
    run = after(reported(steps=graph("a", "b: a", "c: b", "d: a")), *done("a", "b", "c"), c.MarkRerun(step="b"),
                c.StartStep(step="b"), c.FailStep(step="b"))  # fmt: skip

    assert marked(run, c.MarkRerun(step="a")) == {"a": None}
    assert statuses(after(c.MarkRerun(step="a"), run=run)) == {
        "a": "needs_rerun",
        "b": "failed",
        "c": "needs_rerun",
    }


def test_a_running_step_whose_ground_moved_is_marked_when_it_completes() -> None:
    run = after(reported(steps=graph("a", "b: a", "c: b")), *done("a", "b"), c.StartStep(step="c"))
    run = after(c.MarkRerun(step="a"), *done("a", "b"), run=run)
    assert statuses(run)["c"] == "running"

    events = when(run, c.CompleteStep(step="c"))

    assert [e.event_type(it) for it in events] == ["step_completed", "step_marked_for_rerun"]
    assert events[1].because_of == "a"
    assert statuses(after(c.CompleteStep(step="c"), *done("c"), run=run))["c"] == "completed"


def test_reset_brings_a_step_back_and_reruns_what_rested_on_it() -> None:
    run = after(reported(steps=DIAMOND), *done("a", "b", "c", "d"))

    assert names(run, c.ResetStep(step="b")) == ["step_reset", "step_marked_for_rerun"]
    reset = after(c.ResetStep(step="b"), run=run)
    assert statuses(reset) == {"a": "completed", "b": "pending", "c": "completed", "d": "needs_rerun"}
    assert len(reset.step_states["b"].attempts) == 1
    assert set(statuses(after(c.ResetAll(), run=run)).values()) == {"pending"}


def test_a_skipped_step_lets_the_steps_after_it_start() -> None:
    run = after(reported(steps=DIAMOND), *done("a"), c.SkipStep(step="b", reason="not wanted"), *done("c"))

    assert [step.id for step in ready(run)] == ["d"]


def test_a_run_whose_steps_are_done_is_ended_by_its_owner_and_says_so() -> None:
    run = after(reported(steps=DIAMOND), *done("a", "b", "c", "d"))
    assert run.status == "running"

    (completed,) = when(run, c.Complete())

    assert completed.reason_code == "ALL_STEPS_COMPLETED"


def test_a_step_rerun_on_a_final_run_says_how_to_retry_from_it() -> None:
    run = after(reported(steps=DIAMOND), *done("a"), c.Complete())

    with pytest.raises(AlreadyFinal) as refused:
        when(run, c.MarkRerun(step="a"))

    assert "runfold retry r_x --from a" in refused.value.hint


def test_attempts_keep_their_times_inputs_and_outputs_and_metadata_gathers() -> None:
    run = after(
        reported(steps=DIAMOND), c.StartStep(step="a", input={"n": 1}, metadata={"x": 1}),
        c.FailStep(step="a", error=e.Failure(code="SYS_X"), metadata={"y": 2}),
        c.StartStep(step="a", input={"n": 2}), c.CompleteStep(step="a", output="z" * 5_000, metadata={"x": 3}),
    )  # fmt: skip

    state = run.step_states["a"]
    first, second = state.attempts
    assert (first.status, first.input, first.duration_ms, first.error) == (
        "failed", {"n": 1}, 1_000, e.Failure(code="SYS_X")
    )  # fmt: skip
    assert (second.status, second.input, second.output["bytes"]) == ("completed", {"n": 2}, 5_002)
    assert state.metadata == {"x": 3, "y": 2}


def test_a_worker_starts_steps_with_its_claim_and_a_person_cannot_end_what_it_runs() -> None:
    steps = (e.StepSpec(id="a", command=("true",)), e.StepSpec(id="b", needs=("a",)))
    run = after(c.StartHere(queued=e.RunQueued(steps=steps), worker="w"))
    with pytest.raises(NotAllowed, match="has a command, which its worker runs"):
        when(run, c.StartStep(step="a"))

    run = after(c.StartStep(step="a", claim=1), c.StartTurn(claim=1, started=e.TurnStarted(turn=1, step="a")), run=run)
    with pytest.raises(NotAllowed, match="has a command"):
        when(run, c.CompleteStep(step="a"))
    assert names(run, c.Stop(claim=1)) == ["turn_cancelled", "step_cancelled", "run_stopped"]


def test_steps_have_their_turns_beside_each_other_and_tokens_are_counted_to_their_step() -> None:
    run = after(c.StartHere(queued=e.RunQueued(steps=graph("a", "b")), worker="w"), c.StartStep(step="a", claim=1),
                c.StartStep(step="b", claim=1), c.StartTurn(claim=1, started=e.TurnStarted(turn=1, step="a")),
                c.StartTurn(claim=1, started=e.TurnStarted(turn=2, step="b")))  # fmt: skip
    with pytest.raises(NotAllowed, match=r"turn 1 .* is still open"):
        when(run, c.StartTurn(claim=1, started=e.TurnStarted(turn=3, step="a")))

    run = after(observe(e.TokenUsage(input_tokens=5, cost_micros=7, step="b"), claim=1),
                c.EndTurn(claim=1, ended=e.TurnCompleted(turn=1)), run=run)  # fmt: skip
    assert [it.turn for it in run.open_turns] == [2]
    assert (run.step_states["b"].tokens, run.step_states["b"].cost_micros, run.step_states["a"].tokens) == (5, 7, 0)


def test_a_paused_run_that_waits_for_a_step_by_hand_goes_on_when_it_ends() -> None:
    run = after(c.StartHere(queued=e.RunQueued(steps=graph("a", "b")), worker="w"),
                c.Paused(claim=1, waiting_on="step:a"))  # fmt: skip
    with pytest.raises(NotAllowed, match="is paused"):
        when(run, c.StartStep(step="b"))

    run = after(c.StartStep(step="a"), run=run)
    assert names(run, c.CompleteStep(step="a")) == ["step_completed", "run_resumed"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_a_rerun_of_a_thousand_steps_fits_one_append_and_marks_them_all(shape: str) -> None:
    steps = tuple(
        e.StepSpec(id=f"s{n}", needs=() if n == 0 else (f"s{n - 1}" if shape == "chain" else "s0",))
        for n in range(1_000)
    )
    run = after(reported(steps=steps))
    for first in range(0, 1_000, 100):
        names_ = [f"s{n}" for n in range(first, first + 100)]
        run = after(observe(*(it for name in names_ for it in (e.StepStarted(step=name), e.StepCompleted(step=name)))),
                    run=run)  # fmt: skip

    events = when(run, c.MarkRerun(step="s0"))

    assert len(events) <= 400
    assert set(statuses(after(c.MarkRerun(step="s0"), run=run)).values()) == {"needs_rerun"}
    assert len(when(run, c.ResetAll())) <= 400
    assert set(statuses(after(c.ResetAll(), run=run)).values()) == {"pending"}

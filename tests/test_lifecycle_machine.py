"""No sequence of commands brings a run into a state that its rules forbid."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from runfold import commands as c
from runfold import events as e
from runfold.advancing import Advancing
from runfold.decide import decide
from runfold.errors import RunfoldError
from runfold.evolve import evolve
from runfold.reasons import find_reason
from runfold.state import FINAL, RESTING, Run, new_run

LEGAL: dict[str | None, set[str]] = {
    None: {"queued"},
    "queued": {"running", "paused", "cancelling", "stopped", "failed"},
    "running": {"pausing", "paused", "cancelling", "stopped", "completed", "failed", "queued"},
    "pausing": {"running", "paused", "cancelling", "stopped", "completed", "failed", "queued"},
    "paused": {"running", "queued", "cancelling", "stopped", "completed", "failed"},
    "cancelling": {"cancelled"},
    "stopped": {"running", "queued", "cancelling"},
    "completed": set(),
    "failed": set(),
    "cancelled": set(),
}
claims = st.integers(1, 4)
maybe_claims = st.none() | claims
observed = st.sampled_from(
    [
        e.ToolCalled(tool="shell", call_id="1"),
        e.ToolCalled(tool="shell", call_id="2"),
        e.ToolReturned(call_id="1"),
        e.StepStarted(step="a"),
        e.StepStarted(step="b"),
        e.StepCompleted(step="a"),
        e.UnitStarted(unit="u"),
        e.UnitAction(unit="u", action="draw"),
        e.UnitApproved(unit="u"),
        e.TurnStarted(turn=1),
        e.TurnCompleted(turn=1),
        e.TokenUsage(input_tokens=3),
        e.AgentError(message="no", code="DEP_API_UNAVAILABLE"),
        e.RunCompleted(reason_code="REPORTED"),
        e.Unknown(type="brand_new", data=msgspec.Raw(b"{}")),
    ]
)
queued = st.builds(
    e.RunQueued,
    on_lost=st.sampled_from(["fail", "resume"]),
    lease_seconds=st.sampled_from([None, 30.0]),
)
openings = st.one_of(
    st.builds(c.Queue, queued=queued),
    st.builds(c.StartHere, queued=queued, worker=st.just("w")),
    st.builds(c.OpenReported, queued=queued),
)
steps = st.one_of(
    st.builds(c.Claim, worker=st.sampled_from(["w", "v"])),
    st.builds(c.Start, claim=claims, pid=st.none() | st.just(7)),
    st.builds(c.StartTurn, claim=claims, started=st.just(e.TurnStarted(turn=1))),
    st.builds(
        c.EndTurn,
        claim=claims,
        ended=st.sampled_from([e.TurnCompleted(turn=1), e.TurnFailed(turn=1), e.TurnCancelled(turn=1)]),
    ),
    st.builds(c.Observe, events=st.lists(observed, max_size=3).map(tuple), claim=maybe_claims),
    st.builds(c.Pause),
    st.builds(c.Paused, claim=maybe_claims, waiting_on=st.sampled_from([None, "approval:x", "slot"])),
    st.builds(c.Resume, driver=st.sampled_from([None, "queue", "here", "reported"]), worker=st.sampled_from(["", "w"])),
    st.builds(c.Cancel),
    st.builds(c.Cancelled, claim=maybe_claims),
    st.builds(c.Complete, claim=maybe_claims),
    st.builds(c.Fail, claim=maybe_claims, reason_code=st.sampled_from(["EXIT_NONZERO", "SYS_X", "NONSENSE"])),
    st.builds(c.Stop, claim=maybe_claims),
    st.builds(c.ReleaseClaim, claim=claims),
    st.builds(c.LoseClaim, claim=claims),
    st.builds(c.Annotate, note=st.just("n")),
    st.builds(c.Annotate, labels=st.fixed_dictionaries({"k": st.sampled_from([None, "v"])})),
)


def check(run: Run) -> None:
    if run.status in RESTING:
        assert not run.turn_open
        assert not run.open_tools
        assert not run.open_steps
        assert not run.open_approvals
        assert run.units.current is None
        assert run.worker == ""
        assert run.waiting_on is None
    if run.is_driven and run.status in ("running", "pausing", "cancelling", "stopping"):
        assert run.worker
    if run.is_driven and run.turn_open:
        assert run.worker
    assert find_reason(run.reason_code) is not None
    assert run.message


@settings(max_examples=400, deadline=None)
@given(opening=openings, commands=st.lists(steps | openings, max_size=40))
def test_no_sequence_of_commands_reaches_a_forbidden_state(opening: Any, commands: list[Any]) -> None:
    run = new_run("r_x")

    for at_us, command in enumerate([opening, *commands]):
        before = run
        try:
            events = decide(run, command, at_us)
        except RunfoldError:
            continue
        for event in events:
            changed = evolve(run, event, at_us=at_us)
            assert changed.version == run.version + 1
            if changed.status != run.status:
                assert changed.status in LEGAL[run.status], (run.status, event)
            run = changed
        check(run)
        if before.status in FINAL:
            assert run.status == before.status
            assert all(isinstance(event, e.NoteAdded | e.LabelChanged) for event in events)
        assert run.claim >= before.claim


def smallest(kind: Any) -> Any:
    required = [field for field in msgspec.structs.fields(kind) if field.required]
    return kind(**{field.name: "x" if field.type is str else 1 for field in required})


any_event = st.sampled_from([smallest(kind) for kind in e.EVENT_TYPES.values()]) | st.none() | queued | observed


@settings(max_examples=300, deadline=None)
@given(events=st.lists(st.tuples(any_event, st.booleans()), max_size=30))
def test_a_run_changed_in_place_is_the_run_that_the_fold_gives(events: list[tuple[Any, bool]]) -> None:
    folded = new_run("r_x")
    advancing = Advancing(new_run("r_x"))

    for number, (event, is_asked) in enumerate(events):
        folded = evolve(folded, event, at_us=number % 7)
        advancing.take(event, number % 7)

        assert not is_asked or advancing.run() == folded
    assert advancing.run() == folded


@settings(max_examples=300, deadline=None)
@given(events=st.lists(any_event, max_size=15))
def test_evolve_believes_any_events_in_any_order_and_never_raises(events: list[Any]) -> None:
    run = new_run("r_x")

    for event in events:
        run = evolve(run, event, at_us=1)

    assert run.version == len(events)

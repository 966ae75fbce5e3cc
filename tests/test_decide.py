"""The rules of a run as given, when, then; no database."""

from typing import Any

import msgspec
import pytest

from runfold import commands as c
from runfold import events as e
from runfold.decide import decide
from runfold.errors import AlreadyFinal, BadRequest, Fenced, InvalidEvent, NotAllowed, NotFound
from runfold.evolve import evolve
from runfold.state import Run, new_run


def after(*commands: Any, run: Run | None = None) -> Run:
    run = run or new_run("r_x")
    for at_us, command in enumerate(commands, run.version + 1):
        for event in decide(run, command, at_us):
            run = evolve(run, event, at_us=at_us)
    return run


def names(run: Run, command: Any) -> list[str]:
    return [e.event_type(event) for event in decide(run, command, 9)]


def last(run: Run, command: Any) -> Any:
    return decide(run, command, 9)[-1]


def here(**queued: Any) -> c.StartHere:
    return c.StartHere(queued=e.RunQueued(**queued), worker="w", host="h", pid=7, pid_started_at="70", boot_id="b")


def reported(**queued: Any) -> c.OpenReported:
    return c.OpenReported(queued=e.RunQueued(**queued))


QUEUE = c.Queue(queued=e.RunQueued())
TURN = c.StartTurn(claim=1, started=e.TurnStarted(turn=1))
BUSY = c.Observe(
    claim=1, events=(e.ToolCalled(tool="shell", call_id="1"), e.StepStarted(step="a"), e.UnitStarted(unit="u"))
)
CLOSED = ["tool_returned", "turn_cancelled", "step_cancelled"]


def test_a_run_started_here_is_queued_claimed_and_started_in_one_append() -> None:
    assert names(new_run("r_x"), here()) == ["run_queued", "run_claimed", "run_started"]

    run = after(here())
    assert (run.status, run.driver, run.worker, run.claim, run.pid) == ("running", "here", "w", 1, 7)


def test_a_reported_run_runs_at_once_without_a_claim() -> None:
    run = after(reported())

    assert (run.status, run.driver, run.claim) == ("running", "reported", 0)


@pytest.mark.parametrize("opening", [QUEUE, here(), reported()])
def test_a_run_is_opened_only_once(opening: Any) -> None:
    with pytest.raises(NotAllowed, match="exists already"):
        decide(after(opening), opening, 1)


def test_a_command_to_an_unknown_run_is_not_found() -> None:
    with pytest.raises(NotFound):
        decide(new_run("r_x"), c.Cancel(), 1)


def test_exactly_one_worker_claims_a_queued_run() -> None:
    run = after(QUEUE, c.Claim(worker="a"))

    assert run.claim == 1
    with pytest.raises(NotAllowed, match="claimed by a"):
        decide(run, c.Claim(worker="b"), 1)
    assert after(c.Start(claim=1, pid=3), run=run).status == "running"


@pytest.mark.parametrize(
    "command",
    [TURN, BUSY, c.Complete(claim=1), c.Fail(claim=1), c.Stop(claim=1), c.LoseClaim(claim=1), c.ReleaseClaim(claim=1)],
)
def test_a_worker_with_an_old_claim_is_fenced(command: Any) -> None:
    run = after(here(on_lost="resume"), c.LoseClaim(claim=1), c.Claim(worker="v"))

    assert run.claim == 2
    with pytest.raises(Fenced):
        decide(run, command, 1)


def test_turns_are_one_after_the_other_and_close_their_tools() -> None:
    run = after(here(), TURN, BUSY)

    with pytest.raises(NotAllowed, match="still open"):
        decide(run, TURN, 1)
    ended = c.EndTurn(claim=1, ended=e.TurnCompleted(turn=1, exit_code=0))
    assert names(run, ended) == ["tool_returned", "turn_completed"]
    with pytest.raises(NotAllowed, match="no open turn"):
        decide(after(ended, run=run), ended, 1)


@pytest.mark.parametrize(
    "event",
    [e.RunCompleted(reason_code="REPORTED"), e.ApprovalGranted(approval_id="1"), e.LimitExceeded(limit="cost"),
     e.TokenCreated(digest="d"), e.CancelRequested(), e.RunQueued()],
)  # fmt: skip
@pytest.mark.parametrize("claim", [1, None])
def test_what_only_commands_may_do_cannot_be_observed(event: Any, claim: int | None) -> None:
    with pytest.raises(NotAllowed, match=e.event_type(event)):
        decide(after(here()), c.Observe(claim=claim, events=(event,)), 1)


def test_a_reporter_says_its_turns_and_a_driven_program_does_not() -> None:
    turn = c.Observe(events=(e.TurnStarted(turn=1), e.TurnCompleted(turn=1)))

    assert names(after(reported()), turn) == ["turn_started", "turn_completed"]
    with pytest.raises(NotAllowed, match="turn_started"):
        decide(after(here()), turn, 1)


def test_an_unknown_type_is_kept_and_cannot_hide_a_known_one() -> None:
    unknown = e.Unknown(type="brand_new", data=msgspec.Raw(b"{}"))

    assert decide(after(here()), c.Observe(events=(unknown,)), 1) == (unknown,)
    with pytest.raises(InvalidEvent):
        decide(after(here()), c.Observe(events=(e.Unknown(type="run_failed", data=msgspec.Raw(b"{}")),)), 1)


@pytest.mark.parametrize("rest", [c.Pause(), c.Stop()])
def test_while_a_reported_run_rests_usage_is_taken_and_starts_are_refused(rest: Any) -> None:
    run = after(reported(), rest)

    assert names(run, c.Observe(events=(e.TokenUsage(), e.Message(text="x")))) == ["token_usage", "message"]
    for event in (e.StepStarted(step="a"), e.UnitStarted(unit="u")):
        with pytest.raises(NotAllowed, match="has to wait"):
            decide(run, c.Observe(events=(event,)), 1)


def test_a_step_that_the_graph_does_not_have_is_refused() -> None:
    run = after(here(steps=(e.StepSpec(id="a"),)))

    assert names(run, c.Observe(events=(e.StepStarted(step="a"),))) == ["step_started"]
    with pytest.raises(NotAllowed, match="no step `b`"):
        decide(run, c.Observe(events=(e.StepStarted(step="b"),)), 1)


def test_a_driven_run_pauses_when_its_worker_says_so_and_gives_its_claim_back() -> None:
    run = after(here(), c.Pause())

    assert run.status == "pausing"
    assert decide(run, c.Pause(), 1) == ()
    assert names(run, c.Paused(claim=1)) == ["run_paused", "claim_released"]
    assert after(c.Paused(claim=1), run=run).worker == ""


def test_a_held_turn_keeps_its_claim_while_paused_and_goes_on_when_resumed() -> None:
    run = after(here(), TURN, c.Pause(), c.Paused(claim=1))

    assert (run.status, run.worker, run.turn_open) == ("paused", "w", True)
    assert after(c.Resume(), run=run).status == "running"
    assert after(c.Cancel(), run=run).status == "cancelling"


@pytest.mark.parametrize("opening", [QUEUE, reported()])
def test_where_nobody_listens_a_pause_and_a_cancel_are_immediate(opening: Any) -> None:
    assert after(opening, c.Pause()).status == "paused"
    assert after(opening, c.Cancel()).status == "cancelled"


def test_a_reporter_with_a_lease_is_asked() -> None:
    run = after(reported(lease_seconds=30.0))

    assert after(c.Pause(), run=run).status == "pausing"
    assert after(c.Cancel(), run=run).status == "cancelling"
    assert after(c.Cancel(), c.Cancelled(), run=run).status == "cancelled"
    assert after(c.LoseClaim(claim=0), run=run).reason_code == "WORKER_LOST"


def test_resume_in_a_terminal_claims_again_and_runs() -> None:
    stopped = after(here(), TURN, c.Stop(claim=1))

    resume = c.Resume(driver="here", worker="v")
    assert names(stopped, resume) == ["run_resumed", "run_claimed"]
    run = after(resume, run=stopped)
    assert (run.status, run.claim, run.worker) == ("running", 2, "v")
    assert after(c.Start(claim=2, pid=8), run=run).pid == 8
    assert decide(run, resume, 1) == ()


def test_resume_over_http_queues_the_run() -> None:
    run = after(here(), c.Stop(claim=1), c.Resume(driver="queue", limits={"cost": 2}))

    assert (run.status, run.driver, run.limits) == ("queued", "queue", {"cost": 2})


@pytest.mark.parametrize(
    ("end", "final"),
    [
        (c.Complete(claim=1, reason_code="EXIT_ZERO"), "run_completed"),
        (c.Fail(claim=1, reason_code="CRASHED"), "run_failed"),
        (c.Stop(claim=1), "run_stopped"),
    ],
)
def test_the_append_that_ends_a_run_closes_what_is_open_inside(end: Any, final: str) -> None:
    assert names(after(here(), TURN, BUSY), end) == [*CLOSED, final]


@pytest.mark.parametrize("end", [c.Complete(claim=1), c.Fail(claim=1, reason_code="CRASHED"), c.Stop(claim=1)])
def test_a_cancel_is_decided_by_the_request_and_never_by_the_exit(end: Any) -> None:
    run = after(here(), TURN, c.Cancel())

    assert run.status == "cancelling"
    assert decide(run, c.Cancel(), 1) == ()
    assert after(end, run=run).status == "cancelled"


def test_survivors_of_a_kill_are_told() -> None:
    run = after(here(), c.Cancel())

    assert last(run, c.Cancelled(claim=1, receipt=e.Receipt(survivors=(5,)))).reason_code == "KILL_INCOMPLETE"
    assert last(run, c.Cancelled(claim=1, receipt=e.Receipt(found=1))).reason_code == "CANCELLED_BY_USER"


def test_a_cancelled_run_stays_cancelled_without_a_complaint_to_whoever_wants_it_cancelled() -> None:
    assert decide(after(QUEUE, c.Cancel()), c.Cancel(), 1) == ()


@pytest.mark.parametrize("end", [c.Complete(), c.Fail(), c.Cancel()])
@pytest.mark.parametrize("command", [c.Pause(), c.Resume(), c.Complete(), c.Stop(), c.Observe(events=())])
def test_final_is_final_and_says_how_to_start_again(end: Any, command: Any) -> None:
    with pytest.raises(AlreadyFinal) as refused:
        decide(after(reported(), end), command, 1)

    assert "runfold retry r_x" in refused.value.hint


def test_notes_and_labels_are_taken_also_at_the_end() -> None:
    run = after(reported(), c.Complete())

    assert after(c.Annotate(note="n"), c.Annotate(labels={"k": "v"}), run=run).labels == {"k": "v"}


def test_completing_copies_what_the_workflow_kept() -> None:
    kept = (e.ContextSet(key="export_location", value="out/"), e.ContextSet(key="files", value=["a", 1]),
            e.ContextSet(key="validation_passed", value=True))  # fmt: skip

    done = last(after(reported(), c.Observe(events=kept)), c.Complete())

    assert (done.export_location, done.files, done.validation_passed) == ("out/", ("a",), True)


def test_what_the_program_said_about_its_failure_is_the_reason() -> None:
    said = c.Observe(events=(e.AgentError(message="down", code="DEP_API_UNAVAILABLE", retryable=True),))
    run = after(here(), TURN, said)

    failed = c.EndTurn(claim=1, ended=e.TurnFailed(turn=1, exit_code=2, error=e.Failure(code="EXIT_NONZERO")))
    assert last(run, failed).error.code == "DEP_API_UNAVAILABLE"
    end = last(after(failed, run=run), c.Fail(claim=1, reason_code="EXIT_NONZERO"))
    assert (end.reason_code, end.error.type, end.error.retryable) == ("DEP_API_UNAVAILABLE", "dependency", True)
    assert last(run, c.Fail(claim=1, reason_code="TIMED_OUT")).reason_code == "TIMED_OUT"


@pytest.mark.parametrize("command", [c.Complete(reason_code="NONSENSE"), c.Fail(reason_code="EXIT_ZERO")])
def test_a_reason_that_nobody_knows_or_of_another_status_is_a_bad_request(command: Any) -> None:
    with pytest.raises(BadRequest):
        decide(after(reported()), command, 1)


def test_a_lost_worker_fails_the_run_or_requeues_it_three_times() -> None:
    assert names(after(here(), TURN), c.LoseClaim(claim=1)) == ["claim_lost", "turn_cancelled", "run_failed"]

    run = after(c.Queue(queued=e.RunQueued(on_lost="resume")))
    for claim in (1, 2, 3):
        run = after(c.Claim(worker="w"), c.Start(claim=claim), c.LoseClaim(claim=claim), run=run)
        assert run.status == "queued"
    run = after(c.Claim(worker="w"), c.Start(claim=4), c.LoseClaim(claim=4), run=run)
    assert (run.status, run.reason_code) == ("failed", "RECOVERY_LIMIT")


def test_a_claim_that_never_started_is_queued_again() -> None:
    assert after(QUEUE, c.Claim(worker="w"), c.LoseClaim(claim=1)).status == "queued"


def test_cost_is_unknown_until_a_usage_knows_one() -> None:
    run = after(reported(), c.Observe(events=(e.TokenUsage(input_tokens=2, output_tokens=3),)))

    assert (run.tokens.total, run.cost_micros) == (5, None)
    assert after(c.Observe(events=(e.TokenUsage(cost_micros=7),)), run=run).cost_micros == 7


def test_a_limit_that_stops_is_honoured_whatever_the_command_does_then() -> None:
    run = evolve(after(here(), TURN), e.LimitExceeded(limit="cost"), at_us=5)

    assert run.status == "stopping"
    assert last(run, c.Complete(claim=1, reason_code="EXIT_ZERO")).reason_code == "COST_LIMIT_EXCEEDED"


def test_an_imported_run_takes_turns_and_steps_without_a_claim_and_never_goes_on_after_it_rests() -> None:
    imported = c.OpenReported(queued=e.RunQueued(driver="imported"))
    told = c.Observe(events=(e.TurnStarted(turn=1), e.StepStarted(step="a"), e.TurnCompleted(turn=1)))
    run = after(imported, told, c.Stop(reason_code="COST_LIMIT_EXCEEDED"))

    assert (run.driver, run.status, run.claim, run.open_steps) == ("imported", "stopped", 0, ())
    with pytest.raises(NotAllowed, match="cannot be resumed"):
        decide(run, c.Resume(), 9)

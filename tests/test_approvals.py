"""A question to a person is asked and answered once, and the run waits for the answer."""

from typing import Any

import pytest

from runfold import commands as c
from runfold import events as e
from runfold.approval_states import APPROVALS_KEPT_MAX
from runfold.approvals import APPROVAL_SECONDS
from runfold.envelope import time_text
from runfold.errors import NotAllowed, NotFound
from runfold.evolve import evolve
from runfold.state import Run
from tests.given import SECOND_US, after, here, names, observe, reported, when

COSTS = e.TokenUsage(input_tokens=10, cost_micros=300_000)
ASK = c.RequestApproval(kind="deploy", summary="Deploy now?")


def asked() -> Run:
    """A run that has spent $1.20 of the $1.00 after which it has to ask."""
    return after(reported(limits={"cost": "1:ask"}), observe(*[COSTS] * 4))


def test_a_limit_that_asks_says_what_it_asks_and_until_when() -> None:
    run = after(reported(limits={"cost": "1:ask"}), observe(*[COSTS] * 3))

    *_, requested, paused = when(run, observe(COSTS))

    assert (requested.kind, requested.amount_micros) == ("limit", 2_200_000)
    assert "$1.20 of $1.00" in requested.summary
    assert requested.expires_at == time_text(run.updated_at_us + SECOND_US + APPROVAL_SECONDS * SECOND_US)
    assert len(requested.digest) == 64
    assert paused.waiting_on == f"approval:{requested.approval_id}"


def test_a_grant_with_a_new_amount_resumes_and_the_limit_asks_again_there() -> None:
    run = asked()

    assert names(run, c.Grant(approval_id="a1", amount_micros=1_500_000)) == ["approval_granted", "run_resumed"]
    run = after(c.Grant(approval_id="a1", amount_micros=1_500_000), run=run)
    assert (run.status, run.waiting_on) == ("running", None)
    run = after(observe(COSTS), run=run)
    assert (run.status, run.waiting_on) == ("paused", "approval:a2")


def test_a_grant_without_an_amount_gives_as_much_again() -> None:
    run = after(c.Grant(approval_id="a1"), run=asked())

    assert after(observe(*[COSTS] * 3), run=run).status == "running"
    assert after(observe(*[COSTS] * 4), run=run).status == "paused"


def test_a_grant_of_less_than_is_spent_is_refused() -> None:
    with pytest.raises(NotAllowed, match="used up"):
        when(asked(), c.Grant(approval_id="a1", amount_micros=1_100_000))


def test_an_answer_to_something_else_is_refused() -> None:
    run = asked()
    digest = run.approvals["a1"].digest

    with pytest.raises(NotAllowed, match="is not what you answered"):
        when(run, c.Grant(approval_id="a1", digest="0" * 64))
    assert names(run, c.Grant(approval_id="a1", digest=digest))[0] == "approval_granted"


def test_a_denial_stops_the_run() -> None:
    assert names(asked(), c.Deny(approval_id="a1", comment="too dear")) == ["approval_denied", "run_stopped"]

    run = after(c.Deny(approval_id="a1", comment="too dear"), run=asked())
    assert (run.status, run.reason_code, run.message) == ("stopped", "APPROVAL_DENIED", "too dear")


def test_a_question_that_nobody_answers_in_time_stops_the_run() -> None:
    run = asked()
    late = run.updated_at_us + APPROVAL_SECONDS * SECOND_US

    with pytest.raises(NotAllowed, match="has not expired"):
        when(run, c.Expire(approval_id="a1"))
    for command in (c.Expire(approval_id="a1"), c.CheckLimits()):
        assert names(run, command, now_us=late) == ["approval_expired", "run_stopped"]
    with pytest.raises(NotAllowed, match="has expired"):
        when(run, c.Grant(approval_id="a1"), now_us=late)
    assert after(c.CheckLimits(), run=run, now_us=late).reason_code == "APPROVAL_EXPIRED"


@pytest.mark.parametrize("first", [c.Grant(approval_id="q"), c.Deny(approval_id="q")])
@pytest.mark.parametrize("second", [c.Grant(approval_id="q"), c.Deny(approval_id="q"), c.Expire(approval_id="q")])
def test_a_second_decision_is_refused(first: Any, second: Any) -> None:
    run = after(reported(), c.RequestApproval(approval_id="q"), first)

    with pytest.raises(NotAllowed, match=r"already (granted|denied)") as refused:
        when(run, second)

    assert refused.value.status == 409


def test_an_approval_that_was_never_asked_is_not_found() -> None:
    with pytest.raises(NotFound, match="no approval `x`"):
        when(after(reported()), c.Grant(approval_id="x"))


def test_a_reporter_asks_and_waits_and_its_starts_wait_with_it() -> None:
    run = after(reported(), ASK)

    assert (run.status, run.reason_code, run.waiting_on) == ("paused", "AWAITING_APPROVAL", "approval:a1")
    with pytest.raises(NotAllowed, match="has to wait"):
        when(run, observe(e.UnitStarted(unit="u")))
    with pytest.raises(NotAllowed, match="waits for an answer"):
        when(run, c.Resume())
    assert after(c.Grant(approval_id="a1"), run=run).status == "running"


def test_a_worker_asks_at_its_turns_end_and_keeps_no_claim_while_it_waits() -> None:
    run = after(here(), c.StartTurn(claim=1, started=e.TurnStarted(turn=1)))
    ask = c.RequestApproval(claim=1, kind="deploy")
    assert names(run, ask) == ["approval_requested", "pause_requested"]

    run = after(ask, c.EndTurn(claim=1, ended=e.TurnCompleted(turn=1)), c.Paused(claim=1), run=run)

    assert (run.waiting_on, run.worker, run.status) == ("approval:a1", "", "paused")
    assert after(c.Grant(approval_id="a1", driver="queue"), run=run).status == "queued"


def test_resuming_with_a_new_limit_answers_the_limit_that_asked() -> None:
    assert names(asked(), c.Resume(limits={"cost": 3})) == ["approval_granted", "run_resumed"]


def test_a_run_that_ends_leaves_no_question_open() -> None:
    assert names(after(reported(), ASK), c.Complete()) == ["approval_expired", "run_completed"]


def test_a_child_program_cannot_ask_or_answer() -> None:
    with pytest.raises(NotAllowed):
        when(after(here()), ASK)
    with pytest.raises(NotAllowed):
        when(after(here()), observe(e.ApprovalGranted(approval_id="a1"), claim=1))


def test_of_many_questions_a_run_keeps_the_open_ones_and_the_last_that_were_answered() -> None:
    run = after(reported(), ASK)
    (still_open,) = run.approvals

    for number in range(APPROVALS_KEPT_MAX + 9):
        for event in (e.ApprovalRequested(approval_id=f"q{number}"), e.ApprovalDenied(approval_id=f"q{number}")):
            run = evolve(run, event, at_us=run.updated_at_us)

    assert [*run.approvals] == [still_open, *(f"q{number}" for number in range(10, APPROVALS_KEPT_MAX + 9))]
    assert run.approvals_made == APPROVALS_KEPT_MAX + 10

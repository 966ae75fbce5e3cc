"""What made an event, and what it made: told by the ledger as it stores, and read in both directions everywhere."""

from pathlib import Path
from typing import Any

import pytest

from runfold import commands as c
from runfold import events as e
from runfold.envelope import Recorded
from tests.given import graph
from tests.ledgers import RUN, act, opened, stored
from tests.served import OTHER, serving
from tests.terminal import read, record, runfold

WORKER = "worker:w"


def made_by(events: list[Recorded]) -> dict[str, str | None]:
    """Each type of event with the type of what made the last of it."""
    types = {event.id: event.type for event in events}
    return {event.type: types[event.cause] if event.cause else None for event in events}


async def driven(data: Path, *commands: tuple[Any, str], **queued: Any) -> dict[str, str | None]:
    """What made what in a run that goes through these commands of these actors."""
    async with opened(data) as ledger:
        start = c.StartHere(queued=e.RunQueued(**queued), worker="w", host="h", pid=7, boot_id="b")
        await ledger.execute("r_d", start, actor="user:a", tenant="default")
        for command, actor in commands:
            await ledger.execute("r_d", command, actor=actor, tenant="default")
    return made_by(stored(data, "r_d"))


TURN = (c.StartTurn(claim=1, started=e.TurnStarted(turn=1)), WORKER)
ENDED = (c.EndTurn(claim=1, ended=e.TurnCompleted(turn=1)), WORKER)


async def test_what_happens_in_a_turn_names_the_turn_and_what_a_call_returns_the_call(tmp_path: Path) -> None:
    work = (e.ToolCalled(tool="edit", call_id="1"), e.FileWritten(path="a"), e.ToolReturned(call_id="1"))

    made = await driven(tmp_path, TURN, (c.Observe(events=work, claim=1), WORKER), ENDED, (c.Complete(claim=1), WORKER))

    assert made == {
        "run_queued": None,
        "run_claimed": "run_queued",
        "run_started": "run_claimed",
        "turn_started": "run_started",
        "tool_called": "turn_started",
        "file_written": "turn_started",
        "tool_returned": "tool_called",
        "turn_completed": "turn_started",
        "run_completed": "turn_completed",
    }


async def test_a_stop_names_the_limit_and_the_limit_what_was_spent(tmp_path: Path) -> None:
    spent = c.Observe(events=(e.TokenUsage(input_tokens=90, output_tokens=20),), claim=1)

    made = await driven(tmp_path, TURN, (spent, WORKER), ENDED, (c.Complete(claim=1), WORKER), limits={"tokens": 100})

    assert made["token_usage"] == "turn_started"
    assert made["limit_exceeded"] == "token_usage"
    assert made["run_stopped"] == "limit_exceeded"


async def test_an_end_names_the_wish_for_it_and_a_persons_own_wish_names_nothing(tmp_path: Path) -> None:
    cancel = (c.Cancel(reason="enough"), "user:a")
    cancelled = (c.EndTurn(claim=1, ended=e.TurnCancelled(turn=1)), WORKER), (c.Cancelled(claim=1), WORKER)

    made = await driven(tmp_path, TURN, cancel, *cancelled)

    assert made["cancel_requested"] is None
    assert made["turn_cancelled"] == "cancel_requested"
    assert made["run_cancelled"] == "cancel_requested"


async def test_what_an_answer_sets_going_names_the_answer_and_the_answer_the_question(tmp_path: Path) -> None:
    asked = (c.RequestApproval(claim=1, approval_id="go", summary="may I"), WORKER)
    granted = (c.Grant(approval_id="go"), "user:a")

    made = await driven(tmp_path, asked, granted)

    assert made["run_paused"] == "approval_requested"
    assert made["claim_released"] == "run_paused"
    assert made["approval_granted"] == "approval_requested"
    assert made["run_resumed"] == "approval_granted"


async def test_every_step_that_a_change_takes_with_it_names_the_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        order = c.OpenReported(queued=e.RunQueued(steps=graph("a", "b: a", "c: b")))
        await act(ledger, order, run_id="r_s")
        for step in "abc":
            await act(ledger, c.StartStep(step=step), run_id="r_s")
            await act(ledger, c.CompleteStep(step=step), run_id="r_s")
        changed = await act(ledger, c.MarkRerun(step="a"), run_id="r_s")

    first, *others = changed.events
    assert first.cause is None
    assert [event.cause for event in others] == [first.id, first.id]


async def test_a_lost_driver_makes_the_run_fail_by_name(tmp_path: Path) -> None:
    made = await driven(tmp_path, TURN, (c.LoseClaim(claim=1, reason="gone"), "system"))

    assert made["claim_lost"] == "run_claimed"
    assert made["run_failed"] == "claim_lost"


async def test_causes_are_told_alike_by_a_ledger_that_reads_the_run_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, c.StartStep(step="a"))
    async with opened(tmp_path) as ledger:
        done = await act(ledger, c.CompleteStep(step="a"))

    started = next(event for event in stored(tmp_path, RUN) if event.type == "step_started")
    assert done.events[0].cause == started.id


async def test_the_chain_is_asked_for_over_http_in_both_directions_and_across_a_retry(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        first = await server.open_run(steps=[{"id": "a"}, {"id": "b", "needs": ["a"]}])
        await server.control(first, "fail", message="no")
        retried = await server.ask("POST", f"/api/runs/{first}/retry", json={})
        second = (await retried.json())["new_run_id"]
        opened_by, *_ = await server.events(second)

        up = await server.ask("GET", f"/api/runs/{second}/events/{opened_by['id']}/causes")
        ended = (await server.events(first))[-1]
        down = await server.ask("GET", f"/api/runs/{first}/events/{ended['position']}/causes")
        foreign = await server.ask("GET", f"/api/runs/{first}/events/1/causes", token=OTHER)
        unknown = await server.ask("GET", f"/api/runs/{first}/events/99999/causes")
        wrong = await server.ask("GET", f"/api/runs/{first}/events/xyz/causes")

        assert [item["type"] for item in (await up.json())["causes"]][:1] == ["run_failed"]
        assert [item["id"] for item in (await down.json())["effects"]] == [opened_by["id"]]
        assert (foreign.status, unknown.status, wrong.status) == (404, 404, 400)


@pytest.mark.slow
def test_every_event_that_a_driver_writes_has_a_cause_and_the_terminal_shows_it(tmp_path: Path) -> None:
    record(tmp_path, 'print(\'{"runfold": {"type": "file_written", "path": "a.py"}}\'); raise SystemExit(3)')
    events = read(tmp_path, "events", "@last")["items"]

    why = runfold(tmp_path, "why", "@last")
    shown = runfold(tmp_path, "events", "@last", "--causes", str(events[-1]["position"]))
    chain = read(tmp_path, "events", "@last", "--causes", events[-1]["id"])

    assert [event["type"] for event in events if event["cause"] is None] == ["run_queued"]
    types = [item["type"] for item in chain["causes"]]
    assert types == ["turn_failed", "turn_started", "run_started", "run_claimed", "run_queued"]
    assert shown.stdout.count("because of") == len(types)
    assert f"run_failed ({events[-1]['position']}) because of turn_failed" in why.stdout

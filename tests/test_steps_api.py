"""Steps, approvals and retries over real HTTP: what a program or a page can do with them, and what it is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.served import OTHER, VIEWER, Served, serving

CHAIN = [{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["b"]}, {"id": "d"}]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def act(served: Served, run_id: str, step: str, action: str, **more: Any) -> Any:
    headers = more.pop("headers", None)
    path = f"/api/runs/{run_id}/steps/{step}"
    return await served.ask("POST", path, json={"action": action, **more}, headers=headers)


async def complete(served: Served, run_id: str, *steps: str) -> None:
    for step in steps:
        for action in ("start", "complete"):
            response = await act(served, run_id, step, action)
            assert response.status == 200, await response.text()


async def ask(served: Served, run_id: str, **body: Any) -> Any:
    return await served.ask("POST", f"/api/runs/{run_id}/approvals", json={"summary": "go on?", **body})


async def answer(served: Served, run_id: str, name: str, decision: str, **more: Any) -> Any:
    headers = more.pop("headers", None)
    path = f"/api/runs/{run_id}/approvals/{name}"
    return await served.ask("POST", path, json={"decision": decision, **more}, headers=headers)


async def test_a_step_that_is_marked_tells_every_step_that_it_takes_with_it(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)
    await complete(served, run_id, "a", "b", "c", "d")

    told = await (await act(served, run_id, "a", "rerun", reason="new data")).json()

    assert [(it["step"], it["status"], it["because_of"]) for it in told["changed"]] == [
        ("a", "needs_rerun", None),
        ("b", "needs_rerun", "a"),
        ("c", "needs_rerun", "a"),
    ]
    assert told["changed"][0]["reason"] == "new data"


async def test_a_step_cannot_start_before_its_needs_and_is_told_which(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)

    response = await act(served, run_id, "b", "start")

    problem = await response.json()
    assert response.status == 409
    assert "`a` (pending)" in problem["detail"]
    assert "complete a first" in problem["hint"]


async def test_the_last_step_of_a_run_driven_by_hand_does_not_end_it(served: Served) -> None:
    run_id = await served.open_run(steps=[{"id": "only"}])

    await complete(served, run_id, "only")
    still = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    ended = await (await served.control(run_id, "complete")).json()

    assert (still["status"], still["steps"]["by_status"]) == ("running", {"completed": 1})
    assert (ended["status"], ended["reason_code"]) == ("completed", "ALL_STEPS_COMPLETED")


async def test_a_wish_sent_twice_gets_the_same_answer_and_one_event(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)
    key = {"Idempotency-Key": "start-a"}

    first = await (await act(served, run_id, "a", "start", headers=key)).json()
    await act(served, run_id, "a", "complete", output={"rows": 3})
    again = await (await act(served, run_id, "a", "start", headers=key)).json()

    assert again == first
    assert first["changed"][0]["status"] == "running"


async def test_all_steps_are_reset_at_once(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)
    await complete(served, run_id, "a", "d")

    told = await (await served.ask("POST", f"/api/runs/{run_id}/steps", json={"action": "reset"})).json()

    assert [(it["step"], it["status"]) for it in told["changed"]] == [("a", "pending"), ("d", "pending")]


async def test_a_step_whose_name_holds_a_slash_is_reached_by_its_escaped_name(served: Served) -> None:
    run_id = await served.open_run(steps=[{"id": "phase/3.5 ü"}])

    told = await (await act(served, run_id, "phase%2F3.5%20%C3%BC", "start")).json()

    assert told["changed"][0]["step"] == "phase/3.5 ü"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "explode"},
        {"action": "start", "output": 1},
        {"action": "complete", "error": {"message": "no"}},
        {"action": "rerun", "metadata": {"a": 1}},
        {"action": "start", "colour": "red"},
        {"action": "skip", "reason": "x" * 1_001},
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused_and_leaves_no_trace(served: Served, body: Any) -> None:
    run_id = await served.open_run(steps=CHAIN)
    before = (await served.log.bounds()).last

    response = await served.ask("POST", f"/api/runs/{run_id}/steps/a", json=body)

    assert response.status == 400
    assert (await response.json())["hint"]
    assert (await served.log.bounds()).last == before


async def test_a_question_pauses_the_run_until_it_is_granted(served: Served) -> None:
    run_id = await served.open_run()

    asked = await ask(served, run_id, amount_usd=2.5, kind="cost")
    (item,) = (await (await served.ask("GET", f"/api/runs/{run_id}/approvals")).json())["items"]
    waiting = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    granted = await (await answer(served, run_id, "a1", "grant", comment="fine")).json()
    after = await (await served.ask("GET", f"/api/runs/{run_id}")).json()

    assert (asked.status, item["approval_id"], item["amount_usd"], item["status"]) == (201, "a1", 2.5, "pending")
    assert (waiting["status"], waiting["waiting_on"]) == ("paused", "approval:a1")
    assert (granted["status"], granted["answered_by"], granted["comment"]) == ("granted", "user:admin", "fine")
    assert (after["status"], after["waiting_on"]) == ("running", None)


async def test_a_second_decision_is_a_conflict_and_the_first_one_stands(served: Served) -> None:
    run_id = await served.open_run()
    await ask(served, run_id)
    key = {"Idempotency-Key": "deny-once"}

    first = await answer(served, run_id, "a1", "deny", comment="no", headers=key)
    second = await answer(served, run_id, "a1", "grant")
    repeated = await answer(served, run_id, "a1", "deny", comment="no", headers=key)
    run = await (await served.ask("GET", f"/api/runs/{run_id}")).json()

    assert (first.status, second.status, repeated.status) == (200, 409, 200)
    assert "already denied" in (await second.json())["detail"]
    assert (run["status"], run["reason_code"]) == ("stopped", "APPROVAL_DENIED")


async def test_an_answer_to_something_else_than_was_asked_is_refused(served: Served) -> None:
    run_id = await served.open_run()
    await ask(served, run_id)
    (item,) = (await (await served.ask("GET", f"/api/runs/{run_id}/approvals")).json())["items"]
    digest = item["digest"]

    wrong = await answer(served, run_id, "a1", "grant", digest="f" * 64)
    right = await answer(served, run_id, "a1", "grant", digest=digest)

    assert (wrong.status, right.status) == (409, 200)


async def test_open_questions_are_listed_for_the_own_tenant_only_newest_first(served: Served) -> None:
    mine = [await served.open_run(title=str(number)) for number in range(3)]
    theirs = await served.open_run(token=OTHER)
    for run_id in mine:
        await ask(served, run_id)
    await served.ask("POST", f"/api/runs/{theirs}/approvals", json={"summary": "theirs"}, token=OTHER)
    await answer(served, mine[0], "a1", "deny")

    pending = await (await served.ask("GET", "/api/approvals?status=pending", token=VIEWER)).json()
    every = await (await served.ask("GET", "/api/approvals?limit=2")).json()
    rest = await (await served.ask("GET", f"/api/approvals?cursor={every['next_cursor']}")).json()
    own = await (await served.ask("GET", f"/api/runs/{mine[0]}/approvals")).json()

    assert [it["run_id"] for it in pending["items"]] == [mine[2], mine[1]]
    assert [it["run_id"] for it in every["items"] + rest["items"]] == [mine[2], mine[1], mine[0]]
    assert (every["total"], rest["next_cursor"]) == (3, None)
    assert [(it["status"], it["answered_by"]) for it in own["items"]] == [("denied", "user:admin")]


@pytest.mark.parametrize("query", ["status=gone", "limit=0", "limit=201", "cursor=-1", "cursor=x", "colour=red"])
async def test_a_bad_query_of_approvals_is_refused(served: Served, query: str) -> None:
    assert (await served.ask("GET", f"/api/approvals?{query}")).status == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"summary": "a", "amount_usd": -1},
        {"summary": "a", "expires_at": "yesterday"},
        {"summary": "a", "expires_at": "2020-01-01T00:00:00Z"},
        {"summary": "a", "extra": 1},
    ],
)
async def test_a_question_that_cannot_be_asked_is_refused(served: Served, body: Any) -> None:
    run_id = await served.open_run()

    response = await served.ask("POST", f"/api/runs/{run_id}/approvals", json=body)

    assert response.status == 400
    assert (await served.ledger.state(run_id)).status == "running"


async def test_a_retry_reuses_what_is_still_valid_and_both_runs_name_each_other(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN, workflow="phases", labels={"team": "a"})
    for step in ("a", "b", "c", "d"):
        await act(served, run_id, step, "start")
        await act(served, run_id, step, "complete", output={"of": step})
    await served.control(run_id, "fail", message="the export broke")

    response = await served.ask("POST", f"/api/runs/{run_id}/retry", json={"from_step": "b"})
    answered = await response.json()
    new = await (await served.ask("GET", f"/api/runs/{answered['new_run_id']}")).json()
    old = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    state = await served.ledger.state(answered["new_run_id"])

    assert response.status == 202
    assert (answered["reused"], answered["rerun"]) == (["a", "d"], ["b", "c"])
    assert new["steps"]["by_status"] == {"completed": 2, "pending": 2}
    assert (new["lineage"]["retry_of"], new["lineage"]["from_step"], new["labels"]) == (run_id, "b", {"team": "a"})
    assert old["lineage"]["retries"] == [answered["new_run_id"]]
    assert (state.step_states["a"].output, state.step_states["a"].cache_hit) == ({"of": "a"}, True)
    assert state.step_states["a"].metadata == {"reused_from": run_id}
    assert (await act(served, state.run_id, "b", "start")).status == 200


async def test_the_plan_of_a_retry_says_why_and_changes_nothing(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)
    await complete(served, run_id, "a", "b")
    before = (await served.log.bounds()).last

    response = await served.ask("POST", f"/api/runs/{run_id}/retry", json={"from_step": "b", "plan": True})
    plan = await response.json()

    assert (response.status, plan["new_run_id"]) == (200, None)
    assert [(it["step"], it["action"], it["why"]) for it in plan["steps"]] == [
        ("a", "reuse", "it is completed and nothing it rests on changes"),
        ("b", "rerun", "the retry starts here"),
        ("c", "rerun", "it rests on b"),
        ("d", "rerun", "it was pending"),
    ]
    assert (await served.log.bounds()).last == before


async def test_a_retry_is_made_once_however_often_it_is_sent(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)
    await served.control(run_id, "fail")

    path, key = f"/api/runs/{run_id}/retry", {"Idempotency-Key": "again"}
    answers = [await (await served.ask("POST", path, headers=key, json={})).json() for _ in range(3)]

    assert len({it["new_run_id"] for it in answers}) == 1
    assert (await (await served.ask("GET", f"/api/runs/{run_id}")).json())["lineage"]["retries"] == [
        answers[0]["new_run_id"]
    ]


async def test_a_run_that_goes_on_cannot_be_retried_and_an_unknown_step_is_named(served: Served) -> None:
    run_id = await served.open_run(steps=CHAIN)

    going = await served.ask("POST", f"/api/runs/{run_id}/retry", json={})
    unknown = await served.ask("POST", f"/api/runs/{run_id}/retry", json={"from_step": "z"})

    assert (going.status, unknown.status) == (409, 400)
    assert "its steps are: a, b, c, d" in (await unknown.json())["hint"]


async def test_a_retry_of_a_thousand_steps_reuses_them_all_in_one_append(served: Served) -> None:
    chain = [{"id": f"s{i}", "needs": [f"s{i - 1}"] if i else []} for i in range(1_000)]
    run_id = await served.open_run(steps=chain)
    for start in range(0, 999, 200):
        events = [
            {"type": kind, "data": {"step": f"s{i}"}}
            for i in range(start, min(start + 200, 999))
            for kind in ("step_started", "step_completed")
        ]
        assert (await served.report(run_id, *events)).status == 200
    await served.control(run_id, "fail")

    answered = await (await served.ask("POST", f"/api/runs/{run_id}/retry", json={"from_step": "s999"})).json()

    new = await (await served.ask("GET", f"/api/runs/{answered['new_run_id']}")).json()
    assert new["steps"]["by_status"] == {"completed": 999, "pending": 1}
    assert (await act(served, answered["new_run_id"], "s999", "start")).status == 200

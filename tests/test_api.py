"""Runs over HTTP: opened, reported, controlled; every command safe to send again."""

import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.app import ROUTES
from eventstore.sqlite3_module import sqlite3
from runfold.workflows import Registry, Workflow
from tests.served import OTHER, Served, note, serving

pytestmark = pytest.mark.usefixtures("each_log")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    registry = Registry(workflows={"w": Workflow(command=("true",), name="w")})
    async with serving(tmp_path, registry=lambda: registry) as server:
        yield server


async def test_a_reported_run_is_created_running_and_found_again(served: Served) -> None:
    response = await served.ask(
        "POST", "/api/runs/external", json={"workflow": "sheet", "title": "hero", "units_total": 8}
    )
    opened = await response.json()
    found = await (await served.ask("GET", response.headers["Location"])).json()
    status = await (await served.ask("GET", response.headers["Location"] + "/status")).json()

    assert response.status == 201
    assert (opened["status"], opened["workflow"], opened["title"]) == ("running", "sheet", "hero")
    assert found == opened == status


async def test_events_come_back_as_they_were_sent(served: Served) -> None:
    run_id = await served.open_run(title="a")
    event_id = str(uuid.uuid4())

    answer = await (
        await served.report(
            run_id,
            {
                "id": event_id,
                "type": "file_written",
                "data": {"path": "a.py", "bytes": 12},
                "at": "2026-01-02T03:04:05Z",
            },
            note(2),
        )
    ).json()
    listed = await (await served.ask("GET", f"/api/runs/{run_id}/events")).json()

    assert answer["last"] == listed["items"][-1]["position"]
    assert answer["duplicate"] is False
    assert answer["version"] == listed["total"] == len(listed["items"])
    first = listed["items"][-2]
    assert first["id"] == event_id
    assert first["data"] == {"path": "a.py", "bytes": 12}
    assert (first["type"], first["class"], first["at"]) == ("file_written", "activity", "2026-01-02T03:04:05.000000Z")


async def test_a_report_sent_again_gets_the_first_answer_even_when_the_run_is_over(served: Served) -> None:
    run_id = await served.open_run(title="a")
    events = [{**note(number), "id": str(uuid.uuid4())} for number in range(3)]

    first = await (await served.report(run_id, *events)).json()
    await served.control(run_id, "complete")
    again = await served.report(run_id, *events)

    assert again.status == 200
    assert await again.json() == {**first, "duplicate": True}


async def test_one_bad_event_refuses_its_whole_batch(served: Served) -> None:
    run_id = await served.open_run(title="a")
    before = (await served.log.bounds()).last

    response = await served.report(run_id, note(1), {"type": "run_failed", "data": {"reason_code": "SYS_X"}})
    answer = await (await served.ask("GET", f"/api/runs/{run_id}/events?class=activity")).json()

    assert response.status in (400, 409)
    assert answer["items"] == []
    assert (await served.log.bounds()).last - before <= 1


async def test_the_same_key_and_body_open_one_run(served: Served) -> None:
    first = await served.open_run(key="k", title="a")
    second = await served.open_run(key="k", title="a")
    foreign = await served.open_run(key="k", title="a", token=OTHER)
    changed = await served.ask("POST", "/api/runs/external", json={"title": "b"}, headers={"Idempotency-Key": "k"})

    assert first == second != foreign
    assert changed.status == 422
    assert (await changed.json())["code"] == "idempotency_key_reused"


COMMANDS: dict[tuple[str, str], list[dict[str, Any]]] = {
    # The body that is sent twice, and bodies that differ from it, the last ones as little as can be.
    ("POST", "/api/runs"): [{"workflow": "w"}, {"workflow": "w", "title": "b"}],
    ("POST", "/api/runs/continuous"): [{"workflow": "w"}, {"workflow": "w", "prompt": "b"}],
    ("POST", "/api/runs/external"): [{"title": "a"}, {}, {"title": "b"}],
    ("POST", "/api/runs/{run_id}/events"): [
        {"events": [note(1)]},
        {"events": [note(1), note(1)]},
        {"events": [{"type": "note_added", "data": {"text": "message 1"}}]},
        {"events": [note(2)]},
    ],
    ("POST", "/api/runs/{run_id}/control"): [
        {"action": "fail", "reason_code": "SYS_A", "message": "a"},
        {"action": "cancel"},
        {"action": "fail", "reason_code": "SYS_B", "message": "a"},
        {"action": "fail", "reason_code": "SYS_A", "message": "b"},
    ],
    ("POST", "/api/runs/{run_id}/approvals"): [{"summary": "a"}, {"summary": "a", "amount_usd": 1}, {"summary": "b"}],
    ("PATCH", "/api/runs/{run_id}"): [{"title": "b"}, {"title": "c"}, {"title": "b", "note": "n"}],
    ("POST", "/api/runs/{run_id}/notes"): [{"text": "a"}, {"text": "b"}],
    ("POST", "/api/runs/bulk"): [
        {"action": "cancel", "ids": ["{run_id}"]},
        {"action": "pause", "ids": ["{run_id}"]},
        {"action": "cancel", "ids": ["{run_id}"], "reason": "b"},
    ],
    ("DELETE", "/api/runs/{run_id}"): [{"reason": "a"}, {}, {"reason": "b"}],
    ("POST", "/api/runs/{run_id}/steps"): [{"action": "reset"}, {"action": "reset", "reason": "b"}],
    ("POST", "/api/runs/{run_id}/steps/{step}"): [{"action": "rerun"}, {"action": "reset"}, {"action": "start"}],
    ("POST", "/api/runs/{run_id}/retry"): [{}, {"payload": 1}],
    ("POST", "/api/runs/{run_id}/approvals/{approval_id}"): [{"decision": "grant"}, {"decision": "deny"}],
}


async def prepare(served: Served, run_id: str, path: str) -> None:
    """What has to be there for the route to have something to do."""
    if "/steps" in path:
        done = [{"type": kind, "data": {"step": "a"}} for kind in ("step_started", "step_completed")]
        await served.report(run_id, *done)
    elif path.endswith("/retry"):
        await served.control(run_id, "fail")
    elif path.endswith("{approval_id}"):
        await served.ask("POST", f"/api/runs/{run_id}/approvals", json={"summary": "a"})


def test_every_route_that_commands_is_in_the_table_of_keys() -> None:
    # Bytes of any kind are tested where their routes are.
    routes = [route for route in ROUTES if route.needs != "open" and route.method != "GET" and not route.streamed]
    acting = {(route.method, route.path) for route in routes}

    # Who asks again for a token or a link gets another or none: what they hold is told once.
    told_once = {("POST", "/session/code"), ("POST", "/api/tokens"), ("DELETE", "/api/tokens/{token}")}
    assert acting - told_once - {("POST", "/api/runs/{run_id}/heartbeat")} == set(COMMANDS)


@pytest.mark.parametrize(("method", "path"), COMMANDS)
async def test_a_key_sent_again_gets_the_first_answer_and_with_another_body_none(
    served: Served, method: str, path: str
) -> None:
    run_id = await served.open_run(title="a")
    key = {"Idempotency-Key": "k"}
    bodies = msgspec.json.encode(COMMANDS[method, path]).replace(b"{run_id}", run_id.encode())
    first, *others = msgspec.json.decode(bodies)
    await prepare(served, run_id, path)
    path = path.replace("{run_id}", run_id).replace("{step}", "a").replace("{approval_id}", "a1")

    answered = await served.ask(method, path, json=first, headers=key)
    made = str(answered.headers.get("Location", "")).rpartition("/")[2] or run_id
    await served.report(made, note(9))
    head = (await served.log.bounds()).last
    again = await served.ask(method, path, json=first, headers=key)
    refused = [await served.ask(method, path, json=other, headers=key) for other in others]

    assert answered.status == again.status
    assert {**await again.json(), "duplicate": 0} == {**await answered.json(), "duplicate": 0}
    assert again.headers.get("ETag") == answered.headers.get("ETag")
    assert [response.status for response in refused] == [422] * len(others)
    assert {(await response.json())["code"] for response in refused} == {"idempotency_key_reused"}
    assert (await served.log.bounds()).last == head


async def test_a_reported_run_pauses_resumes_and_completes(served: Served) -> None:
    run_id = await served.open_run(title="a")

    seen = [
        (await (await served.control(run_id, action)).json())["status"] for action in ("pause", "resume", "complete")
    ]
    history = await (await served.ask("GET", f"/api/runs/{run_id}/history")).json()

    assert seen == ["paused", "running", "completed"]
    assert [item["to"] for item in history["items"]][-3:] == ["paused", "running", "completed"]


async def test_a_deleted_run_is_cancelled_and_asking_twice_answers_the_same(served: Served) -> None:
    run_id = await served.open_run(title="a")

    answers = [await served.ask("DELETE", f"/api/runs/{run_id}") for _ in range(2)]

    assert [response.status for response in answers] == [202, 202]
    assert [(await response.json())["status"] for response in answers] == ["cancelled", "cancelled"]


async def test_a_run_that_fails_says_why(served: Served) -> None:
    run_id = await served.open_run(title="a")

    answer = await (
        await served.control(run_id, "fail", reason_code="DEP_TEXTUREPACKER_FAIL", error={"message": "no licence"})
    ).json()

    assert (answer["status"], answer["reason_code"]) == ("failed", "DEP_TEXTUREPACKER_FAIL")
    assert answer["error"]["message"] == "no licence"


async def test_a_heartbeat_says_what_is_wished_of_the_reporter(served: Served) -> None:
    run_id = await served.open_run(title="a", lease_seconds=30)

    alive = await served.ask("POST", f"/api/runs/{run_id}/heartbeat")
    await served.control(run_id, "pause")
    wished = await (await served.ask("POST", f"/api/runs/{run_id}/heartbeat")).json()
    await served.control(run_id, "fail", reason_code="SYS_X")
    over = await served.ask("POST", f"/api/runs/{run_id}/heartbeat")

    assert (alive.status, (await alive.json())["status"]) == (200, "running")
    assert wished["status"] == "pausing"
    assert over.status == 409


async def test_an_error_that_nobody_foresaw_tells_no_detail(served: Served, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "log.db")) as somebody:
        somebody.execute("ALTER TABLE events RENAME TO secret")

    response = await served.ask("GET", f"/api/runs/r_{'a' * 26}/events")

    problem = await response.json()
    assert (response.status, response.content_type) == (500, "application/problem+json")
    assert (problem["detail"], problem["hint"]) == ("an error that nobody foresaw", "the server's log says more")


async def test_the_probes_answer_without_a_token(served: Served) -> None:
    assert [(await served.client.get(path)).status for path in ("/livez", "/readyz")] == [200, 200]


@pytest.mark.parametrize("now", [True, False])
async def test_a_pause_over_http_says_whether_it_waits_for_the_turns_end(served: Served, now: bool) -> None:
    run_id = await served.open_run(title="a", lease_seconds=60)

    answer = await served.control(run_id, "pause", now=now)
    last = (await served.events(run_id))[-1]

    assert answer.status == 202
    assert (last["type"], last["data"].get("now", False)) == ("pause_requested", now)


async def test_now_is_said_of_a_pause_only(served: Served) -> None:
    run_id = await served.open_run(title="a")

    answer = await served.control(run_id, "cancel", now=True)

    assert (answer.status, len(await served.events(run_id))) == (400, 2)
    assert "`now` is said with `pause`" in (await answer.json())["detail"]

"""Runs over HTTP: opened, reported, looked at, controlled; every command safe to send again."""

import asyncio
import fcntl
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import api.asking
from api.app import ROUTES
from eventstore.contract import Bounds
from eventstore.reading import open_reader
from eventstore.sqlite3_module import sqlite3
from projections.past import At, run_at
from runfold.snapshot import snapshot
from runfold.workflows import Registry, Workflow
from tests.served import OTHER, Served, note, serving
from tests.working import PATIENCE_SECONDS

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


async def test_a_run_is_shown_as_it_was_at_a_position_and_at_a_time(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.control(run_id, "pause")
    paused = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The log's clock has to have moved on, or one time would name both moments.
        while (await _last_recorded_at(served, run_id)) >= datetime.now(UTC):
            await asyncio.sleep(0)
    between = datetime.now(UTC).isoformat()
    await served.control(run_id, "resume")
    await served.control(run_id, "complete")

    for at in (str(paused["position"]), f"v{paused['version']}", between):
        for path in ("", "/status"):
            response = await served.ask("GET", f"/api/runs/{run_id}{path}", params={"at": at})
            assert await response.json() == paused, at
    before = await served.ask("GET", f"/api/runs/{run_id}?at=0")
    beyond = await served.ask("GET", f"/api/runs/{run_id}?at={(await served.log.bounds()).last + 1}")
    nonsense = await served.ask("GET", f"/api/runs/{run_id}?at=yesterday")
    foreign = await served.ask("GET", f"/api/runs/{run_id}?at={paused['position']}", token=OTHER)

    assert [response.status for response in (before, beyond, nonsense, foreign)] == [404, 410, 400, 404]


async def _last_recorded_at(served: Served, run_id: str) -> datetime:
    last = await served.log.last(run_id)
    assert last is not None
    return datetime.fromtimestamp(last.recorded_at_us / 1e6 + 1e-5, UTC)


async def test_the_terminal_and_the_api_see_the_same_past(served: Served, tmp_path: Path) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, *[note(number) for number in range(50)])
    await served.control(run_id, "complete")
    reader = open_reader(tmp_path)

    for position in range(1, (await served.log.bounds()).last + 1):
        run, last = run_at(reader, run_id, At(position=position))
        answer = await (await served.ask("GET", f"/api/runs/{run_id}?at={position}")).json()
        assert msgspec.json.decode(msgspec.json.encode(snapshot(run, position=last))) == answer
    reader.close()


async def test_a_read_waits_for_the_position_that_its_caller_has_seen(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.open_run(title="a")
    head = (await served.log.bounds()).last
    reads = ("/api/runs", f"/api/runs/{run_id}", f"/api/runs/{run_id}/history")
    monkeypatch.setattr(api.asking, "MIN_POSITION_SECONDS", PATIENCE_SECONDS)
    waiting = [asyncio.create_task(served.ask("GET", f"{path}?min_position={head + 1}")) for path in reads]
    await served.ask("GET", "/api/runs")

    assert not any(task.done() for task in waiting)
    await served.report(run_id, note(1))
    fresh = [await (await task).json() for task in waiting]
    monkeypatch.setattr(api.asking, "MIN_POSITION_SECONDS", 0.01)
    stale = [await served.ask("GET", f"{path}?min_position={head + 9}") for path in reads]

    assert all("stale" not in answer for answer in fresh)
    assert fresh[1]["position"] == head + 1
    for response in stale:
        answer = await response.json()
        assert (answer["stale"], answer["views_position"]) == (True, head + 1)
        assert response.headers["Runfold-Stale"] == "true"


async def test_a_read_that_begins_to_wait_sleeps_through_nothing_that_is_written_just_then(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.open_run(title="a")
    bounds, head = served.log.bounds, (await served.log.bounds()).last

    async def before_it_was_written() -> Bounds:
        found = await bounds()
        monkeypatch.setattr(served.log, "bounds", bounds)
        assert (await served.report(run_id, note(1))).status == 200
        return found

    monkeypatch.setattr(api.asking, "MIN_POSITION_SECONDS", 2 * PATIENCE_SECONDS)
    monkeypatch.setattr(served.log, "bounds", before_it_was_written)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await (await served.ask("GET", f"/api/runs?min_position={head + 1}")).json()

    assert "stale" not in answer


@pytest.mark.slow
async def test_lists_that_fall_behind_say_so_in_the_answer_and_one_run_comes_from_the_log(
    served: Served, tmp_path: Path
) -> None:
    run_id = await served.open_run(title="a")
    before = await (await served.ask("GET", "/api/runs")).json()
    with (tmp_path / "views.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await served.report(run_id, note(1))
        behind = await (await served.ask("GET", "/api/runs")).json()
        one = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    current = await (await served.ask("GET", "/api/runs")).json()

    (old,), (new,) = before["items"], current["items"]
    assert behind == {**before, "stale": True, "views_position": old["position"]}
    assert (one["version"], "stale" in one) == (old["version"] + 1, False)
    assert (new["version"], "stale" in current) == (old["version"] + 1, False)


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


async def test_a_snapshot_that_did_not_change_is_not_sent_again(served: Served) -> None:
    run_id = await served.open_run(title="a")
    first = await served.ask("GET", f"/api/runs/{run_id}")
    tag = {"If-None-Match": first.headers["ETag"]}

    same = await served.ask("GET", f"/api/runs/{run_id}", headers=tag)
    await served.report(run_id, note(1))
    changed = await served.ask("GET", f"/api/runs/{run_id}", headers=tag)

    assert (same.status, await same.read(), changed.status) == (304, b"", 200)


async def test_pages_of_events_join_without_gap_or_repeat(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, *[note(number) for number in range(25)])

    seen: list[int] = []
    page: dict[str, Any] = {}
    after: str | None = "0"
    while after is not None:
        page = await (await served.ask("GET", f"/api/runs/{run_id}/events?limit=7&after={after}")).json()
        seen += [event["version"] for event in page["items"]]
        after = page["next_cursor"]

    assert seen == list(range(1, page["total"] + 1))


async def test_events_are_read_on_from_the_number_of_one_of_the_run(served: Served) -> None:
    await served.open_run(title="another")
    run_id = await served.open_run(title="a")
    await served.report(run_id, *[note(number) for number in range(20)])

    async def versions(after: str) -> list[int]:
        page = await (await served.ask("GET", f"/api/runs/{run_id}/events?limit=3&after={after}")).json()
        return [event["version"] for event in page["items"]]

    assert await versions("v0") == [1, 2, 3]
    assert await versions("v7") == [8, 9, 10]
    assert await versions("v22") == await versions("v900") == []
    assert (await served.ask("GET", f"/api/runs/{run_id}/events?after=v-1")).status == 400


async def test_a_run_is_looked_at_without_folding_its_events_anew(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.open_run(title="a")
    folded: list[str] = []
    state = served.ledger.state

    async def recorded(name: str, **kwargs: Any) -> Any:
        folded.append(name)
        return await state(name, **kwargs)

    monkeypatch.setattr(served.ledger, "state", recorded)

    for path in ("", "/events", "/events?after=v1", "/history", "/steps", "/timeline", "/artifacts"):
        assert (await served.ask("GET", f"/api/runs/{run_id}{path}")).status == 200

    assert folded == []


async def test_events_are_filtered_by_type_and_class(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(
        run_id, note(1), {"type": "file_read", "data": {"path": "a"}}, {"type": "token_usage", "data": {}}
    )

    async def types(query: str) -> list[str]:
        page = await (await served.ask("GET", f"/api/runs/{run_id}/events?{query}")).json()
        return [event["type"] for event in page["items"]]

    assert await types("type=file_read") == ["file_read"]
    assert await types("type=file_read,message") == ["message", "file_read"]
    assert await types("class=activity&class=usage") == ["message", "file_read", "token_usage"]


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


async def test_the_list_is_newest_first_and_filtered(served: Served) -> None:
    for number in range(3):
        await served.open_run(title=f"run {number}", workflow="even" if number % 2 == 0 else "odd")

    everything = await (await served.ask("GET", "/api/runs")).json()
    even = await (await served.ask("GET", "/api/runs?workflow=even&status=running,paused&limit=1")).json()

    assert [run["title"] for run in everything["items"]] == ["run 2", "run 1", "run 0"]
    assert (even["total"], len(even["items"])) == (2, 1)
    assert even["next_cursor"]


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

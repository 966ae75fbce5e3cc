"""What is not right is refused as a problem with a hint, and leaves no trace in the log."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.served import Served, note, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


def _event(**fields: Any) -> dict[str, Any]:
    return {"events": [{"type": "message", "data": {"text": "a"}, **fields}]}


BAD_EVENTS: dict[str, Any] = {
    "no body": b"",
    "not JSON": b"{",
    "not an object": b"[]",
    "not UTF-8": b'{"events": "\xff"}',
    "no events": {"events": []},
    "too many events": {"events": [note(number) for number in range(401)]},
    "an unknown field": {"events": [note(1)], "extra": 1},
    "an unknown field of an event": _event(extra=1),
    "an unknown type": _event(type="run_exploded"),
    "a wrong kind of data": _event(data={"text": 5}),
    "data that is no object": _event(data=[1]),
    "data that lacks a field": _event(data={}),
    "an id that is no UUID": _event(id="one"),
    "a time that is none": _event(at="yesterday"),
    "a time without zone": _event(at="2026-01-01T00:00:00"),
    "a time before 1970": _event(at="1960-01-01T00:00:00Z"),
    "NaN": b'{"events": [{"type": "telemetry", "data": {"name": "a", "data": NaN}}]}',
    "infinity": b'{"events": [{"type": "telemetry", "data": {"name": "a", "data": 1e999}}]}',
    "a number above 2^53": b'{"events": [{"type": "telemetry", "data": {"name": "a", "data": 9007199254740993}}]}',
    "a huge number": b'{"events": [{"type": "telemetry", "data": {"name": "a", "data": -1e300}}]}',
    "half a surrogate": b'{"events": [{"type": "message", "data": {"text": "\\ud800"}}]}',
    "deep nesting": b'{"events": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nesting that a parser still takes": b'{"events": [{"type": "telemetry", "data": {"name": "a", "data": '
    + b"[" * 100
    + b"]" * 100
    + b"}}]}",
}


@pytest.mark.parametrize("name", BAD_EVENTS)
async def test_bad_events_are_refused_and_nothing_is_recorded(served: Served, name: str) -> None:
    run_id = await served.open_run(title="a")
    before = (await served.log.bounds()).last
    body = BAD_EVENTS[name]
    content: dict[str, Any] = {"json": body}
    if isinstance(body, bytes):
        content = {"data": body, "headers": {"Content-Type": "application/json"}}

    response = await served.ask("POST", f"/api/runs/{run_id}/events", **content)

    assert response.status == 400, await response.text()
    await _is_problem(response)
    assert (await served.log.bounds()).last == before


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=a",
        "limit=1&limit=2",
        "status=gone",
        "sort=colour",
        "order=up",
        "offset=-1",
        "cursor=%00",
        "created_after=yesterday",
        "colour=red",
    ],
)
async def test_a_bad_query_of_the_list_is_refused(served: Served, query: str) -> None:
    response = await served.ask("GET", f"/api/runs?{query}")

    assert response.status == 400
    await _is_problem(response)


@pytest.mark.parametrize("query", ["after=abc", "after=-1", "after=1-xyz", "after=99999999999999999999", "class=none"])
async def test_a_bad_query_of_events_and_streams_is_refused(served: Served, query: str) -> None:
    run_id = await served.open_run(title="a")

    for path in (f"/api/runs/{run_id}/events", f"/api/runs/{run_id}/stream", "/api/stream"):
        response = await served.ask("GET", f"{path}?{query}")
        assert response.status == 400, path
        await _is_problem(response)


async def test_a_body_of_two_megabytes_is_too_large(served: Served) -> None:
    run_id = await served.open_run(title="a")

    body = msgspec.json.encode({"events": [{"type": "message", "data": {"text": "a" * 2_000_000}}]})

    response = await served.ask(
        "POST", f"/api/runs/{run_id}/events", data=io.BytesIO(body), headers={"Content-Type": "application/json"}
    )

    assert response.status == 413
    await _is_problem(response)


@pytest.mark.parametrize("run_id", ["r_unknown", "$runfold", "%24runfold", "%ff", "%00", "r_" + "a" * 5000, "r_%ff"])
async def test_an_unknown_run_is_not_found_whatever_it_is_called(served: Served, run_id: str) -> None:
    for path in ("", "/status", "/events", "/history", "/stream"):
        response = await served.ask("GET", f"/api/runs/{run_id}{path}")
        assert response.status in (400, 404), path
        await _is_problem(response)


async def test_a_transition_that_the_status_does_not_allow_is_a_conflict(served: Served) -> None:
    run_id = await served.open_run(title="a")
    assert (await served.control(run_id, "complete")).status == 202

    for action in ("pause", "resume", "fail"):
        response = await served.control(run_id, action)
        assert response.status == 409, action
        problem = await _is_problem(response)
        assert problem["run_id"] == run_id
    late = await served.report(run_id, note(1))
    assert late.status == 409
    await _is_problem(late)


async def test_a_reporter_cannot_end_a_run_with_an_event(served: Served) -> None:
    run_id = await served.open_run(title="a")

    response = await served.report(run_id, {"type": "run_completed", "data": {"reason_code": "REPORTED"}})

    assert response.status in (400, 409)
    await _is_problem(response)


async def test_unknown_paths_and_methods_are_problems_too(served: Served) -> None:
    nowhere = await served.ask("GET", "/api/nowhere")
    not_that = await served.ask("PUT", "/api/runs")

    assert (nowhere.status, not_that.status) == (404, 405)
    assert not_that.headers["Allow"] == "GET, HEAD, POST"
    await _is_problem(nowhere)
    await _is_problem(not_that)


async def test_an_address_without_even_a_path_is_a_problem_too(served: Served) -> None:
    host = f"127.0.0.1:{served.client.port}"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.client.port)
    try:
        writer.write(f"GET http://{host} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()

    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"Content-Type: application/problem+json\r\n" in head
    assert json.loads(body)["code"] == "not_found"


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_an_impossible_idempotency_key_is_refused(served: Served, key: str) -> None:
    response = await served.ask("POST", "/api/runs/external", json={}, headers={"Idempotency-Key": key})

    assert response.status == 400


async def _is_problem(response: Any) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = await response.json()
    assert problem["status"] == response.status
    assert problem["code"]
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"]
    assert "Traceback" not in problem["detail"]
    return problem

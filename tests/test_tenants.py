"""A tenant sees its own alone: over the whole table of routes, what is another's is like what is not there."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.app import ROUTES
from api.routes import Route
from tests.served import ADMIN, OTHER, Served, bearer, note, serving
from tests.working import PATIENCE_SECONDS

UNKNOWN = "r_" + "a" * 26
MARK = "hunter2"  # In every text of the foreign run, and nowhere else.
STEP = "their_phase"
GUARDED = [route for route in ROUTES if route.needs != "open" and route.described]
OF_A_RUN = [route for route in GUARDED if "{run_id}" in route.path]
OF_A_THING = [route for route in OF_A_RUN if route.path.count("{") > 1 and not route.streamed]
READING = [route for route in GUARDED if route.method == "GET" and route not in OF_A_RUN and route.needs != "root"]
OTHERS = {(it.method, it.path) for it in GUARDED if it not in OF_A_RUN and it not in READING and it.needs != "root"}
BODIES: dict[tuple[str, str], Any] = {
    ("PATCH", "/api/runs/{run_id}"): {"title": "b"},
    ("POST", "/api/runs/{run_id}/notes"): {"text": "b"},
    ("POST", "/api/runs/{run_id}/control"): {"action": "pause"},
    ("POST", "/api/runs/{run_id}/events"): {"events": [note(1)]},
    ("POST", "/api/runs/{run_id}/steps"): {"action": "reset"},
    ("POST", "/api/runs/{run_id}/steps/{step}"): {"action": "complete"},
    ("POST", "/api/runs/{run_id}/approvals"): {"summary": "go on?"},
    ("POST", "/api/runs/{run_id}/approvals/{approval_id}"): {"decision": "deny"},
}


@dataclass
class Foreign:
    """A run of another tenant with something of everything, and what its things are called."""

    served: Served
    mine: str
    run_id: str
    names: dict[str, str]

    async def ask(self, route: Route, run_id: str, **names: str) -> tuple[int, bytes, dict[str, str]]:
        path = route.path.replace("{run_id}", run_id)
        for name, value in {**self.names, **names}.items():
            path = path.replace(f"{{{name}}}", value)
        assert "{" not in path, f"what stands for {path} here?"
        content: dict[str, Any] = {"json": BODIES.get((route.method, route.path), {})}
        if route.method == "GET":
            content = {}
        elif route.streamed:
            content = {"data": b"bytes", "headers": {"Content-Type": "application/octet-stream"}}
        response = await self.served.ask(route.method, path, **content)
        headers = {name: value for name, value in response.headers.items() if name != "Date"}
        if response.content_type == "text/event-stream":
            response.close()
            return response.status, b"", headers
        return response.status, await response.read(), headers


@pytest.fixture
async def foreign(tmp_path: Path) -> AsyncIterator[Foreign]:
    async with serving(tmp_path) as served:
        mine = await served.open_run(title="mine")
        other: dict[str, Any] = {"token": OTHER}
        steps = [{"id": STEP}, {"id": "b", "needs": [STEP]}]
        run_id = await served.open_run(
            title=MARK, workflow=MARK, labels={MARK: MARK}, payload=MARK, steps=steps, **other
        )
        usage = {"model": MARK, "input_tokens": 9, "cost_micros": 9}
        await served.report(
            run_id,
            {"type": "step_started", "data": {"step": STEP, "input": MARK}},
            {"type": "message", "data": {"text": MARK}},
            {"type": "file_written", "data": {"path": MARK}},
            {"type": "token_usage", "data": usage},
            **other,
        )
        stored = await served.ask(
            "PUT", f"/api/runs/{run_id}/artifacts/{MARK}", data=MARK.encode(),
            headers={"Content-Type": "application/octet-stream"}, **other,
        )  # fmt: skip
        asked = await served.ask("POST", f"/api/runs/{run_id}/approvals", json={"summary": MARK}, **other)
        assert (stored.status, asked.status) == (201, 201)
        output = tmp_path / "runs" / run_id / "output.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(MARK)
        events = (await (await served.ask("GET", f"/api/runs/{run_id}/events", **other)).json())["items"]
        questions = [it["data"]["approval_id"] for it in events if it["type"] == "approval_requested"]
        names = {
            "step": STEP,
            "artifact": (await stored.json())["artifact_id"],
            "approval_id": questions[0],
            "event": events[3]["id"],
            "other_id": mine,
        }
        yield Foreign(served, mine, run_id, names)


@pytest.mark.parametrize("route", OF_A_RUN, ids=lambda it: f"{it.method} {it.path}")
async def test_a_foreign_tenants_run_answers_like_an_unknown_one_byte_for_byte(foreign: Foreign, route: Route) -> None:
    before = (await foreign.served.log.bounds()).last

    theirs = await foreign.ask(route, foreign.run_id)
    none = await foreign.ask(route, UNKNOWN)

    assert theirs[0] == none[0] == 404, theirs
    assert theirs[1].replace(foreign.run_id.encode(), b"") == none[1].replace(UNKNOWN.encode(), b"")
    assert theirs[2] == none[2]
    assert (await foreign.served.log.bounds()).last == before


@pytest.mark.parametrize("route", OF_A_RUN, ids=lambda it: f"{it.method} {it.path}")
async def test_a_foreign_tenants_trimmed_run_answers_like_an_unknown_one(
    foreign: Foreign, route: Route, tmp_path: Path
) -> None:
    served, run_id = foreign.served, foreign.run_id
    await served.ask("POST", f"/api/runs/{run_id}/control", json={"action": "complete"}, token=OTHER)
    await served.log.archive([run_id], tmp_path / "archive.zst")
    assert await served.log.trim([run_id], actor="user:a") == (run_id,)

    async with serving(tmp_path) as another:
        asked = replace(foreign, served=another)  # One that never held the run.
        theirs = await asked.ask(route, run_id)
        none = await asked.ask(route, UNKNOWN)

    assert theirs[0] == none[0] == 404, theirs
    assert theirs[1].replace(run_id.encode(), b"") == none[1].replace(UNKNOWN.encode(), b"")


@pytest.mark.parametrize("route", OF_A_THING, ids=lambda it: f"{it.method} {it.path}")
async def test_a_foreign_runs_things_asked_of_an_own_run_are_like_unknown_ones(foreign: Foreign, route: Route) -> None:
    (name,) = set(re.findall(r"{(\w+)}", route.path)) - {"run_id"}
    unknown = {"other_id": UNKNOWN, "event": "00000000-0000-4000-8000-000000000000"}.get(name, "z9")
    asked = {**foreign.names, "other_id": foreign.run_id}[name]

    theirs = await foreign.ask(route, foreign.mine, **{name: asked})
    none = await foreign.ask(route, foreign.mine, **{name: unknown})

    assert theirs[0] == none[0], theirs
    assert theirs[1].replace(asked.encode(), b"") == none[1].replace(unknown.encode(), b"")
    assert MARK.encode() not in theirs[1]


@pytest.mark.parametrize("route", [it for it in READING if "{" in it.path], ids=lambda it: it.path)
async def test_a_name_that_only_another_tenant_uses_is_an_unknown_one(foreign: Foreign, route: Route) -> None:
    theirs, none = [await foreign.ask(route, "", name=name) for name in (MARK, "zz")]

    assert theirs[0] == none[0]
    assert theirs[1].replace(MARK.encode(), b"zz") == none[1]


@pytest.mark.parametrize("route", [it for it in READING if "{" not in it.path], ids=lambda it: it.path)
async def test_no_list_holds_anything_of_another_tenant(foreign: Foreign, route: Route) -> None:
    known = [field.encode_name for field in msgspec.structs.fields(route.query)]
    queries = ["", *(f"?{name}={foreign.run_id}" for name in known if name == "run_id")]
    for query in queries:
        content = await _content(foreign.served, route.path + query)
        unknown = await _content(foreign.served, route.path + query.replace(foreign.run_id, UNKNOWN))

        assert MARK.encode() not in content
        assert foreign.run_id.encode() not in content
        if query:
            assert content == unknown


def test_every_other_route_is_known_to_touch_no_run_that_it_was_not_given() -> None:
    makes_its_own = {"/api/runs", "/api/runs/continuous", "/api/runs/external"}
    # Tested one by one, in `test_bulk.py` and `test_tokens.py`.
    takes_names_otherwise = {"/api/runs/bulk", "/api/tokens", "/api/tokens/{token}", "/session/code"}

    assert {path for _, path in OTHERS} <= makes_its_own | takes_names_otherwise


async def _content(served: Served, path: str) -> bytes:
    """The whole answer; of a stream what comes until something of our own does."""
    if not path.endswith("/stream"):
        response = await served.ask("GET", path)
        assert response.status == 200, await response.text()
        return bytes(await response.read())
    content = b""
    async with served.client.get(path, headers=bearer(ADMIN)) as stream, asyncio.timeout(PATIENCE_SECONDS):
        run_id = await served.open_run(title="the end")
        while run_id.encode() not in content:
            content += await stream.content.readany()
    return content

"""Over HTTP only registered workflows start, with parameters of their type; the answer is there at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runfold.commands import Budget
from runfold.state import Run
from runfold.workflows import Registry, parse_workflows
from runner.prices import check_order
from tests.served import OPERATOR, VIEWER, Served, serving

TOML = """
[workflow.greet]
command = ["echo", "{name}"]
[workflow.greet.parameters.name]
choices = ["ann", "bob"]
[workflow.loop]
command = ["cat"]
max_turns = 3
[workflow.loop.completion]
pattern = "DONE"
[workflow.codex]
command = ["codex", "exec", "--json"]
[workflow.step]
steps = [{ id = "write", command = ["codex", "exec", "--json"] }]
[workflow.known]
command = ["codex", "exec", "--json"]
model = "gpt-5"
"""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    registry = Registry(workflows=parse_workflows(TOML), folder=str(tmp_path))
    async with serving(tmp_path / "data", registry=lambda: registry) as server:
        yield server


async def test_a_workflow_is_queued_and_answered_with_202(served: Served) -> None:
    response = await served.ask(
        "POST", "/api/runs", token=OPERATOR, json={"workflow": "greet", "payload": {"name": "ann"}, "title": "Hi"}
    )
    body = await response.json()

    assert response.status == 202
    assert (body["status"], body["driver"], body["workflow"], body["title"]) == ("queued", "queue", "greet", "Hi")
    assert body["command"] == ["echo", "ann"]
    assert response.headers["Location"] == f"/api/runs/{body['id']}"


async def test_a_loop_takes_a_prompt_and_rules_of_its_own(served: Served) -> None:
    body = {"workflow": "loop", "prompt": "go", "max_turns": 9, "completion": {"stop_file": "STOP"}}

    response = await served.ask("POST", "/api/runs/continuous", token=OPERATOR, json=body)
    run_id = (await response.json())["id"]
    events = await (await served.ask("GET", f"/api/runs/{run_id}/events")).json()

    data = events["items"][0]["data"]
    assert (data["prompt"], data["max_turns"], data["completion"]) == ("go", 9, {"stop_file": "STOP"})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"workflow": "nope"}, 404),
        ({"workflow": "greet"}, 400),
        ({"workflow": "greet", "payload": {"name": "eve"}}, 400),
        ({"workflow": "greet", "payload": {"name": "ann"}, "command": ["rm"]}, 400),
        ({"payload": {}}, 400),
    ],
)
async def test_anything_else_is_refused_with_a_hint(served: Served, body: object, status: int) -> None:
    response = await served.ask("POST", "/api/runs", token=OPERATOR, json=body)
    problem = await response.json()

    assert (response.status, bool(problem["hint"])) == (status, True)


async def test_a_viewer_may_not_start_a_run(served: Served) -> None:
    response = await served.ask("POST", "/api/runs", token=VIEWER, json={"workflow": "loop"})

    assert response.status == 403


async def test_the_same_key_again_is_the_same_run(served: Served) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"workflow": "loop"}

    first = await served.ask("POST", "/api/runs", token=OPERATOR, json=body, headers=headers)
    again = await served.ask("POST", "/api/runs", token=OPERATOR, json=body, headers=headers)
    other = await served.ask("POST", "/api/runs", token=OPERATOR, json={**body, "title": "x"}, headers=headers)

    assert (await first.json())["id"] == (await again.json())["id"]
    assert other.status == 422


async def test_the_workflows_are_listed_with_their_parameters(served: Served) -> None:
    body = await (await served.ask("GET", "/api/workflows")).json()

    assert [item["name"] for item in body["items"]] == ["codex", "greet", "known", "loop", "step"]
    assert body["items"][1]["parameters"]["name"]["choices"] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("path", "body", "day"),
    [
        ("/api/runs", {"workflow": "codex", "limits": {"cost": 1}}, None),
        ("/api/runs/continuous", {"workflow": "codex", "limits": {"cost": 1}}, None),
        ("/api/runs", {"workflow": "step", "limits": {"cost": 1}}, None),
        ("/api/runs", {"workflow": "codex"}, 5.0),
    ],
)
async def test_a_cost_limit_that_can_have_no_price_is_refused_to_who_asks_for_the_run(
    tmp_path: Path, path: str, body: object, day: float | None
) -> None:
    async def left(run: Run) -> tuple[Budget, ...]:
        return () if day is None else (Budget(limit="cost", scope="day", threshold=day, actual=0),)

    registry = Registry(workflows=parse_workflows(TOML), folder=str(tmp_path))
    async with serving(tmp_path / "data", registry=lambda: registry, check_order=check_order, left=left) as server:
        response = await server.ask("POST", path, json=body)
        problem = await response.json()
        runs = await (await server.ask("GET", "/api/runs")).json()

    assert response.status == 409
    assert "needs a price, and codex prints neither its cost nor its model" in problem["detail"]
    assert "`model` of the workflow" in problem["hint"]
    assert runs["total"] == 0


async def test_a_model_that_the_workflow_or_the_caller_names_gives_the_run_its_price(tmp_path: Path) -> None:
    pytest.importorskip("genai_prices")
    registry = Registry(workflows=parse_workflows(TOML), folder=str(tmp_path))
    asked = {"workflow": "codex", "model": "gpt-5", "limits": {"cost": 1}}
    async with serving(tmp_path / "data", registry=lambda: registry, check_order=check_order) as server:
        named = await server.ask("POST", "/api/runs", json={"workflow": "known", "limits": {"cost": 1}})
        given = await server.ask("POST", "/api/runs/continuous", json=asked)

    assert (named.status, given.status) == (202, 202)

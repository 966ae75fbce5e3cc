"""What is told of a run is the same wherever it is told, in every state: in the list, alone, and in the terminal."""

from pathlib import Path

import pytest

from runfold.commands import Cancel, Pause
from runner import machine
from tests.served import serving
from tests.terminal import read
from tests.working import working

pytestmark = pytest.mark.slow
RECORDINGS = Path(__file__).parent / "recordings"
TOML = f"""
[workflow.at_work]
command = ["sleep", "1000"]
[workflow.paused]
command = ["sleep", "1000"]
[workflow.queued]
command = ["sleep", "1000"]
[workflow.cancelled]
command = ["sleep", "1000"]
[workflow.stopped]
command = ["cat", "{RECORDINGS}/codex/work.jsonl"]
format = "codex"
limits = {{tokens = 5}}
[workflow.done]
command = ["cat", "{RECORDINGS}/codex/work.jsonl"]
format = "codex"
model = "gpt-5"
max_turns = 3
completion = {{pattern = "ALL TASKS"}}
[workflow.failed]
command = ["cat", "{RECORDINGS}/codex/server_error.jsonl"]
format = "codex"
"""
FIELDS = ("pid", "worker", "current_turn", "stats", "completion", "error", "status", "reason_code", "version")


async def test_a_run_is_told_alike_in_the_list_and_alone_whatever_its_state(tmp_path: Path) -> None:
    async with working(tmp_path, TOML, slots=2) as worker, serving(tmp_path / "data") as served:
        ids = {name: await worker.queue(name) for name in ("done", "failed", "stopped")}
        for run_id in ids.values():
            await worker.wait_rest(run_id)
        ids["cancelled"] = await worker.queue("cancelled")
        await worker.wait_type(ids["cancelled"], "turn_started")
        await worker.execute(ids["cancelled"], Cancel())
        await worker.wait_rest(ids["cancelled"])
        for name in ("paused", "at_work"):
            ids[name] = await worker.queue(name)
            await worker.wait_type(ids[name], "turn_started")
        await worker.execute(ids["paused"], Pause(now=True))
        await worker.wait_type(ids["paused"], "run_paused")
        # Both slots are taken: what is held in its turn keeps its own.
        ids["queued"] = await worker.queue("queued")

        listed = {item["id"]: item for item in (await (await served.ask("GET", "/api/runs")).json())["items"]}
        shown = {run_id: read(tmp_path / "data", "status", run_id) for run_id in ids.values()}
        alone = {it: await (await served.ask("GET", f"/api/runs/{it}")).json() for it in ids.values()}
        for name in ("queued", "paused", "at_work"):
            await worker.execute(ids[name], Cancel())

    told = {name: {field: alone[run_id][field] for field in FIELDS} for name, run_id in ids.items()}
    for run_id in ids.values():
        assert {field: listed[run_id][field] for field in FIELDS} == {field: alone[run_id][field] for field in FIELDS}
        assert {field: shown[run_id][field] for field in FIELDS} == {field: alone[run_id][field] for field in FIELDS}
    assert machine.process_started_at(told["at_work"]["pid"])
    assert told["at_work"]["worker"].endswith(f":{told['at_work']['pid']}")
    rest = ("done", "failed", "stopped", "cancelled", "queued")
    assert {name: it["status"] for name, it in told.items()} == {
        "at_work": "running", "done": "completed", **{name: name for name in ids if name not in ("at_work", "done")}
    }  # fmt: skip
    assert [told[name]["current_turn"] for name in ("at_work", "paused")] == [1, 1]
    assert {(told[name]["pid"], told[name]["worker"], told[name]["current_turn"]) for name in rest} == {
        (None, "", None)
    }
    assert [told[name]["stats"]["turns"] for name in ids] == [*[1] * 6, 0]
    assert {name: it["reason_code"] for name, it in told.items() if name in ("stopped", "cancelled")} == {
        "stopped": "TOKEN_LIMIT_EXCEEDED", "cancelled": "CANCELLED_BY_USER"
    }  # fmt: skip
    assert {name for name, it in told.items() if it["error"] is not None} == {"failed"}
    assert {name for name, it in told.items() if it["completion"] is not None} == {"done"}
    assert told["stopped"]["stats"]["tokens"]["total"] == 12_575
    assert told["done"]["completion"] == {"detected": True, "rule": "pattern", "line": "ALL TASKS COMPLETE"}
    assert told["done"]["stats"]["tokens"]["total"] == 12_575
    error = told["failed"]["error"]
    assert (error["code"], error["retryable"]) == ("DEP_API_UNAVAILABLE", True)
    assert "high demand" in error["message"]


@pytest.mark.parametrize(("trap", "most"), [("true", 5.0), ("trap '' TERM", 0.3 + 5.0)])
async def test_a_cancelled_run_is_over_before_its_deadline_whether_or_not_it_obeys(
    tmp_path: Path, trap: str, most: float
) -> None:
    script = f"{trap}; echo up; while :; do sleep 10; done"
    toml = f'[workflow.w]\ncommand = ["sh", "-c", "{script}"]\ngrace_seconds = 0.3\n'
    took = list[float]()
    async with working(tmp_path, toml) as worker:
        # A deadline is little where the machine is busy with something else: then once more.
        while len(took) < 3 and not (took and took[-1] < most):
            run_id = await worker.queue("w")
            await worker.wait_type(run_id, "subprocess_output")
            await worker.execute(run_id, Cancel())
            await worker.wait_rest(run_id)
            at = {event.type: event.recorded_at_us for event in await worker.events(run_id)}
            took.append((at["run_cancelled"] - at["cancel_requested"]) / 1_000_000)
    assert min(took) < most, took

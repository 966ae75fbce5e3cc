"""What admins of all tenants see of the server: figures that agree with what was done to it."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.leases import Lease, Leases
from runfold.envelope import time_us
from tests.served import OTHER, VIEWER, Served, serving
from tests.working import working

SOON_SECONDS = 30


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def ask(served: Served, path: str) -> Any:
    response = await served.ask("GET", path)
    assert response.status == 200, await response.text()
    return await response.json()


def usage(model: str, cost_micros: int) -> dict[str, Any]:
    return {"type": "token_usage", "data": {"model": model, "input_tokens": 10, "cost_micros": cost_micros}}


async def test_tenants_are_listed_with_their_runs_and_cost(served: Served) -> None:
    for number in range(3):
        run_id = await served.open_run(title="a")
        await served.report(run_id, usage("m", 500_000))
        if number:
            await served.control(run_id, "fail")
    await served.open_run(title="b", token=OTHER)

    first = await ask(served, "/api/admin/tenants?limit=1")
    second = await ask(served, "/api/admin/tenants?limit=1&offset=1")

    assert (first["total"], second["total"]) == (2, 2)
    (mine,), (theirs,) = first["items"], second["items"]
    assert (mine["tenant"], mine["runs"], mine["by_status"]) == ("default", 3, {"failed": 2, "running": 1})
    assert (mine["cost_usd"], theirs["cost_usd"]) == (1.5, None)
    assert (theirs["tenant"], theirs["by_status"]) == ("other", {"running": 1})


async def test_the_servers_figures_show_who_listens_who_works_and_what_it_weighs(
    served: Served, tmp_path: Path
) -> None:
    run_id = await served.open_run(title="a")
    leases = Leases.open(tmp_path)
    for claim, name in enumerate(("r_1", "r_2"), 1):
        leases.take(
            Lease(
                run_id=name, tenant="default", claim=claim, owner="w1", host="h", boot_id="b", pid=7, pid_started_at="1"
            ),
            seconds=60 if name == "r_1" else -1,
        )
    for name, seconds in (("w2", 60), ("killed", -1)):
        leases.attend(name, "h", seconds=seconds)
    leases.close()
    streams = [await served.ask("GET", path) for path in ("/api/stream", f"/api/runs/{run_id}/stream")]

    figures = await ask(served, "/api/admin/server")
    for stream in streams:
        stream.close()
    async with asyncio.timeout(SOON_SECONDS):
        while (await ask(served, "/api/admin/server"))["stream_clients"]:
            pass

    assert figures["stream_clients"] == 2
    assert figures["workers"] == [
        {"name": "w1", "host": "h", "runs": 2, "is_alive": True},
        {"name": "w2", "host": "h", "runs": 0, "is_alive": True},
    ]
    assert [(it["run_id"], it["is_expired"]) for it in figures["leases"]] == [("r_1", False), ("r_2", True)]
    assert figures["log"]["position"] == (await served.log.bounds()).last
    assert (figures["log"]["views_lag"], figures["log"]["views_parked"]) == (0, [])
    assert figures["log"]["size_bytes"] >= os.stat(tmp_path / "log.db").st_size > 0
    assert figures["log"]["views_bytes"] > 0
    assert time_us(figures["started_at"]) > 0


async def test_a_worker_that_waits_for_work_is_listed_until_it_goes(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served:
        async with working(tmp_path, "[workflow.w]\ncommand = ['true']\n") as workers:
            await workers.wait_rest(await workers.queue("w"))
            idle: list[dict[str, Any]] = []
            async with asyncio.timeout(SOON_SECONDS):
                while [it["runs"] for it in idle] != [0]:
                    idle = (await ask(served, "/api/admin/server"))["workers"]
        gone = (await ask(served, "/api/admin/server"))["workers"]

    assert [(it["name"].rpartition(":")[2], it["is_alive"]) for it in idle] == [(str(os.getpid()), True)]
    assert gone == []


async def test_costs_are_parted_by_day_and_then_by_model(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, usage("cheap", 1_000), usage("dear", 5_000), usage("dear", 5_000))

    found = await ask(served, "/api/admin/costs?by=day&then=model")

    assert [(it["then"], it["cost_usd"]) for it in found["items"]] == [("dear", 0.01), ("cheap", 0.001)]
    assert len({it["key"] for it in found["items"]}) == 1
    assert (found["total"], found["sum"]["cost_usd"], found["sum"]["runs"]) == (2, 0.011, 1)


async def test_prometheus_reads_the_same_figures_in_its_own_format(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, usage('a"b\\c', 250_000))
    await served.control(run_id, "complete")

    response = await served.ask("GET", "/metrics")
    text = await response.text()

    assert response.content_type == "text/plain"
    samples: dict[str, float] = {}
    known = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            known = line.split()[2]
        elif not line.startswith("#"):
            match = re.fullmatch(r'(\w+)(\{(?:\w+="(?:[^"\\\n]|\\[\\n"])*",?)+\})? (-?[0-9.e+-]+)', line)
            assert match, line
            assert match[1] == known
            samples[f"{match[1]}{match[2] or ''}"] = float(match[3])
    assert samples["runfold_runs_created_total"] == samples['runfold_runs_rested{status="completed"}'] == 1
    assert samples['runfold_cost_usd_total{model="a\\"b\\\\c"}'] == 0.25
    assert samples["runfold_log_position"] == (await served.log.bounds()).last
    assert samples["runfold_log_bytes"] > 0
    assert samples["runfold_stream_clients"] == 0


@pytest.mark.parametrize("path", ["server", "tenants", "runs/stats", "queue", "views", "costs", "runs"])
async def test_only_an_admin_of_all_tenants_sees_the_server(served: Served, path: str) -> None:
    response = await served.ask("GET", f"/api/admin/{path}", token=VIEWER)

    assert (response.status, (await response.json())["hint"]) == (403, "it needs an admin of all tenants")

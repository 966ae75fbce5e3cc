"""Of a trimmed run its summary is told, in a terminal and by a server alike; only what is gone is said to be so."""

from pathlib import Path
from typing import Any

import pytest

from eventstore.sqlite import SqliteLog
from runfold.commands import Complete, Observe, OpenReported
from runfold.events import FileWritten, RunQueued, TokenUsage
from tests.given import graph
from tests.ledgers import RUN, act, opened
from tests.served import Served, serving
from tests.terminal import first_line, runfold, started

TOLD = [("status",), ("report",), ("why",), ("why", "--json"), ("history",), ("steps",), ("wait",)]
GONE = [("events",), ("logs",), ("replay",), ("status", "--at", "v1"), ("diff", RUN)]


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """One run, which was trimmed."""
    data = tmp_path / "data"
    async with opened(data, "r_other") as ledger:
        queued = RunQueued(driver="reported", title="trimmed one", steps=graph("a", "b: a"))
        await act(ledger, OpenReported(queued=queued))
        await act(ledger, Observe(events=(FileWritten(path="a.py"), TokenUsage(input_tokens=3, cost_micros=7))))
        await act(ledger, Complete(message="all of it"))
    log = await SqliteLog.open(data)
    try:
        await log.archive([RUN], tmp_path / "archive.zst")
        await log.trim([RUN], actor="user:a")
    finally:
        await log.close()
    return data


@pytest.mark.slow
async def test_a_trimmed_run_is_told_alike_here_and_through_a_server(data: Path) -> None:
    with started(data, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        here = {it: runfold(data, it[0], RUN, *it[1:]) for it in (*TOLD, *GONE)}
        there = {it: runfold(data, it[0], RUN, *it[1:], RUNFOLD_URL=url) for it in (*TOLD, *GONE)}

    assert [it for it in TOLD if (here[it].returncode, there[it].returncode) != (0, 0)] == []
    assert [it for it in TOLD if here[it].stdout != there[it].stdout] == []
    assert "all of it" in here["report",].stdout
    assert [it for it in GONE if "were trimmed from the log" not in here[it].stderr] == []
    assert [it for it in GONE if (here[it].returncode, here[it].stderr) != (1, there[it].stderr)] == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "all of it"),
        ("/status", "all of it"),
        ("/report", "all of it"),
        ("/why", "all of it"),
        ("/history", "completed"),
        ("/steps", '"b"'),
        ("/steps/b", '"a"'),
    ],
)
async def test_what_views_know_of_a_trimmed_run_is_answered(data: Path, path: str, told: str) -> None:
    async with serving(data) as served:
        status, text = await asked(served, path)

    assert status == 200, text
    assert told in text


@pytest.mark.parametrize(
    "path",
    [
        "/events",
        "/stream",
        "/timeline",
        "/artifacts",
        "/approvals",
        "/output",
        "/diff/r_other",
        "?at=v1",
        "/steps?at=v1",
    ],
)
async def test_what_is_gone_with_a_trimmed_run_is_410(data: Path, path: str) -> None:
    async with serving(data) as served:
        status, text = await asked(served, path)

    assert status == 410, text
    assert "runfold import" in text


async def asked(served: Served, path: str) -> tuple[int, Any]:
    answer = await served.ask("GET", f"/api/runs/{RUN}{path}")
    return answer.status, await answer.text()

"""Several terminals and one server share a data folder: nothing is lost, nobody is turned away."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import ClientSession

from eventstore.log_file import open_reader
from eventstore.proof.verifying import Proof

ROOT = Path(__file__).parent.parent
EVENTS = 10_000
BATCH_EVENTS = 100
PROGRAM = f"""
for number in range({EVENTS}):
    print('{{"runfold": {{"type": "file_written", "path": "%d.py", "bytes": 1}}}}' % number)
"""


def start(data: Path, *arguments: str) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNFOLD_")}
    return subprocess.Popen(
        [sys.executable, "-m", "runfold", *arguments],
        cwd=ROOT,
        env={**kept, "RUNFOLD_DATA": str(data), "RUNFOLD_PORT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def report(address: str, token: str) -> None:
    async with ClientSession(address, headers={"Authorization": f"Bearer {token}"}) as session:
        async with session.post("/api/runs/external", json={"title": "reported"}) as opened:
            run_id = (await opened.json())["id"]
        for start_at in range(0, EVENTS, BATCH_EVENTS):
            events = [
                {"type": "file_written", "data": {"path": f"{number}.py", "bytes": 1}}
                for number in range(start_at, start_at + BATCH_EVENTS)
            ]
            async with session.post(f"/api/runs/{run_id}/events", json={"events": events}) as answer:
                assert answer.status == 200, await answer.text()


@pytest.mark.slow
def test_two_terminals_and_a_server_write_ten_thousand_events_each(tmp_path: Path) -> None:
    with start(tmp_path, "up") as server:
        assert server.stdout is not None
        address = server.stdout.readline().partition("/login")[0]
        token = (tmp_path / "token").read_text().strip()
        drivers = [start(tmp_path, "run", "--quiet", "--", sys.executable, "-c", PROGRAM) for _ in range(2)]

        asyncio.run(report(address, token))
        for driver in drivers:
            _, errors = driver.communicate(timeout=60)
            assert driver.returncode == 0, errors
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)

    log = open_reader(tmp_path)
    written = Counter[str]()
    paths: dict[str, list[str]] = {}
    for run_id, data in log.execute("SELECT run_id, data FROM events WHERE type = 'file_written' ORDER BY position"):
        written[run_id] += 1
        paths.setdefault(run_id, []).append(json.loads(data)["path"])
    assert sorted(written.values()) == [EVENTS] * 3
    assert all(said == [f"{number}.py" for number in range(EVENTS)] for said in paths.values())
    assert log.execute("SELECT count(*), max(position) FROM events").fetchone() == (
        *log.execute("SELECT count(DISTINCT position) FROM events").fetchone(),
        *log.execute("SELECT position FROM head").fetchone(),
    )
    assert list(Proof(log).faults()) == []

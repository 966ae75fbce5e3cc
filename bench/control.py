"""Measures how soon a server answers a launch, and ends a run that is cancelled, while twenty runs are at work.

The server is a real `runfold up` whose runs print ten lines a second each. A cancel is measured from before its request
to the time at which the log recorded `run_cancelled`. On a machine that is busy with other things the figures are of
that machine; `nice -n -10 python -m bench.control` comes nearer to one that is not.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from bench.scoreboard import Figure, show
from eventstore.sqlite import SqliteLog

RUNS = 20
LAUNCHES = 150
CANCELS = 10
GRACE_SECONDS = 1.0
LAUNCH_P99_MS = 50.0
CANCEL_P99_SECONDS = 1.0
START_SECONDS = 60.0
BUSY = "import itertools, time; [print(n) or time.sleep(0.1) for n in itertools.count()]"
TOML = f"""
[workflow.busy]
command = [{sys.executable!r}, "-uS", "-c", '{BUSY}']
grace_seconds = {GRACE_SECONDS}
[workflow.stubborn]
command = ["sh", "-c", "trap '' TERM; echo here; while :; do sleep 10; done"]
grace_seconds = {GRACE_SECONDS}
[workflow.loop]
command = ["true"]
max_turns = 3
"""

Ask = Callable[[str, Any], Awaitable[Any]]


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        yield from asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    (folder / "runfold.toml").write_text(TOML)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "--data", str(folder / "data"), "up", "--port", "0"),
        *("--workers", str(RUNS)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RUNFOLD_LOG_LEVEL": "error"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    url = (await asyncio.wait_for(server.stdout.readline(), START_SECONDS)).decode().partition("/login")[0]
    headers = {"Authorization": f"Bearer {(folder / 'data' / 'token').read_text().strip()}"}
    log = await SqliteLog.open(folder / "data")
    try:
        async with aiohttp.ClientSession(headers=headers) as session:

            async def ask(path: str, body: Any) -> Any:
                async with session.post(url + path, json=body) as response:
                    if response.status >= 300:
                        raise SystemExit(await response.text())
                    return await response.json()

            for _ in range(RUNS - 1):
                await _started(log, ask, "busy")
            # The last slot is for those that are cancelled one after the other, then for one more; launches only wait.
            figures = await _cancel(log, ask, "busy", "obeys", CANCEL_P99_SECONDS)
            figures += await _cancel(log, ask, "stubborn", "does not", GRACE_SECONDS + CANCEL_P99_SECONDS)
            await _started(log, ask, "busy")
            figures += await _launch(ask, "/api/runs", {"workflow": "loop"})
            figures += await _launch(ask, "/api/runs/continuous", {"workflow": "loop", "prompt": "go"})
        return figures
    finally:
        await log.close()
        server.terminate()
        await server.wait()


async def _started(log: SqliteLog, ask: Ask, workflow: str) -> str:
    run_id: str = (await ask("/api/runs", {"workflow": workflow}))["id"]
    await _recorded_us(log, run_id, "subprocess_output")
    return run_id


async def _recorded_us(log: SqliteLog, run_id: str, kind: str) -> int:
    async for page in log.tail(after=0, stream=run_id):
        for recorded in page.events:
            if recorded.type == kind:
                return recorded.recorded_at_us
    raise AssertionError("a tail has no end")


async def _launch(ask: Ask, path: str, body: Any) -> list[Figure]:
    waits: list[float] = []
    for _ in range(LAUNCHES):
        began = time.perf_counter()
        await ask(path, body)
        waits.append((time.perf_counter() - began) * 1_000)
    return _percentiles(f"POST {path}", waits, "ms", LAUNCH_P99_MS)


async def _cancel(log: SqliteLog, ask: Ask, workflow: str, how: str, most: float) -> list[Figure]:
    waits: list[float] = []
    for _ in range(CANCELS):
        run_id = await _started(log, ask, workflow)
        began = time.time()
        await ask(f"/api/runs/{run_id}/control", {"action": "cancel"})
        waits.append(await _recorded_us(log, run_id, "run_cancelled") / 1_000_000 - began)
    return _percentiles(f"cancel of one that {how}", waits, "s", most)


def _percentiles(what: str, waits: list[float], unit: str, most: float) -> list[Figure]:
    waits.sort()
    spread = (waits[0], waits[-1])
    return [
        Figure(work=f"{what}, p50", value=waits[len(waits) // 2], unit=unit, spread=spread),
        Figure(work=f"{what}, p99", value=waits[int(len(waits) * 0.99)], unit=unit, ceiling=most, spread=spread),
    ]


if __name__ == "__main__":
    sys.exit(show(measure()))

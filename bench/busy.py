"""Measures appends while `runfold rebuild` folds every view in a process of its own, beside the same appends alone."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.append import CALLERS, new_event, timed
from bench.filling import agents, fill
from bench.scoreboard import Figure, compared, show
from eventstore.sqlite import SqliteLog
from projections.engine.generations import current_generation, views_file
from runfold.ordered_ids import ordered_id

EVENTS = 400_000  # A rebuild of them takes longer than a round of appends.
APPENDS = 6_400
ROUNDS = 5
START_SECONDS = 60.0
RUNFOLD = Path(sys.executable).with_name("runfold")


async def appended(data: Path, name: str) -> list[float]:
    log = await SqliteLog.open(data)

    async def caller(number: int, share: int, waits: list[float]) -> None:
        last = 0
        for _ in range(share):
            started = time.perf_counter()
            last = (await log.append(f"r_{name}_{number}", (new_event(ordered_id),), expected=last)).last
            waits.append(time.perf_counter() - started)

    figures = await timed(APPENDS, CALLERS, caller)
    await log.close()
    return figures


def beside_a_rebuild(data: Path, name: str) -> list[float]:
    building = views_file(data, current_generation(data) + 1)
    rebuild = subprocess.Popen([str(RUNFOLD), "--data", str(data), "rebuild", "--json"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not building.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        figures = asyncio.run(appended(data, name))
        if rebuild.poll() is not None:
            raise SystemExit("the rebuild was over before the appends were; give it more events")
        return figures
    finally:
        rebuild.terminate()
        rebuild.wait()


def measure() -> Iterator[Figure]:
    alone: list[list[float]] = []
    busy: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        data = Path(folder)
        fill(data, agents(EVENTS))
        for number in range(ROUNDS):
            alone.append(asyncio.run(appended(data, f"alone{number}")))
            busy.append(beside_a_rebuild(data, f"busy{number}"))
    rates, waits = ([[round[n] for round in rounds] for rounds in (busy, alone)] for n in (0, 1))
    work = f"{CALLERS} callers while a rebuild runs"
    yield compared(work, "events/s", *rates, beside="the same alone", floor=0.7)
    yield compared(f"{work}, p99", "ms", *waits, beside="the same alone", ceiling=2.0)


if __name__ == "__main__":
    sys.exit(show(measure()))

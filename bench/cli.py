"""Measures the start of `runfold ps` beside a click program that does nothing, in starts that alternate."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.scoreboard import Figure, compared, figure, interleaved, show
from eventstore.sqlite import SqliteLog
from projections.engine.views import Views
from runfold.envelope import NewEvent, run_id_of
from runfold.events import Event, RunCompleted, RunQueued, RunStarted, encode_data, event_type

STARTS = 15
RUNS = 10_000
APPENDS_TOGETHER = 100
PS_MS_MAX = 100.0
RATIO_MAX = 2.0
RUNFOLD = Path(sys.executable).with_name("runfold")
STUB = """import click

@click.group()
def main(): pass

@main.command()
@click.option("--json", "as_json", is_flag=True)
def ps(as_json): click.echo("ID  STATUS")

main()
"""


async def record(data: Path, count: int) -> None:
    """So many completed runs, as a year of use leaves them."""
    log = await SqliteLog.open(data)
    facts: tuple[Event, ...] = (
        RunQueued(driver="here", title="pytest -q", command=("pytest", "-q"), labels={"branch": "main"}),
        RunStarted(worker="bench", pid=1),
        RunCompleted(reason_code="EXIT_ZERO", exit_code=0),
    )

    async def one(number: int) -> None:
        at_us = time.time_ns() // 1000 + number
        events = [
            NewEvent(
                id=str(uuid.uuid4()), type=event_type(fact), data=encode_data(fact), at_us=at_us, tenant="default",
                actor="user:bench",
            )
            for fact in facts
        ]  # fmt: skip
        await log.append(run_id_of(uuid.uuid4()), events, expected=0)

    try:
        for first in range(0, count, APPENDS_TOGETHER):
            await asyncio.gather(*(one(number) for number in range(first, min(first + APPENDS_TOGETHER, count))))
    finally:
        await log.close()


def started(command: list[str], environment: dict[str, str]) -> float:
    """Milliseconds from start to end of a command that has to succeed."""
    begun = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begun) * 1000


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stub.py").write_text(STUB)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNFOLD_")}
        # What is installed is compiled; a checkout is too after its first start.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = {"click stub": [sys.executable, str(folder / "stub.py"), "ps"]}
        for count in (1, RUNS):
            data = folder / str(count)
            asyncio.run(record(data, count))
            views = Views.open(data)
            views.refresh()
            views.close()
            commands[f"runfold ps, {count:,} runs"] = [str(RUNFOLD), "--data", str(data), "ps"]
        for command in commands.values():
            started(command, environment)
        took = interleaved(
            STARTS,
            {label: lambda it=it: started(it, environment) for label, it in commands.items()},  # type: ignore[misc]
        )
    stub = took.pop("click stub")
    for label, times in took.items():
        yield figure(label, "ms", times, ceiling=PS_MS_MAX)
        yield compared(f"{label}, beside", "ms", times, stub, beside="a click stub", ceiling=RATIO_MAX)


if __name__ == "__main__":
    sys.exit(show(measure()))

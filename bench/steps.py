"""Measures what one wish about a step costs: sixteen phases, a thousand steps in a chain and in a fan, on a real log.

The terminal's start is a whole process, from its fork to its exit.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.scoreboard import Figure, figure, percentile, show
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Command, CompleteStep, MarkRerun, OpenReported, StartStep
from runfold.events import RunQueued, StepSpec
from runfold.markdown import markdown_report
from runfold.workflows import parse_workflows

EXAMPLE = Path(__file__).parent.parent / "examples" / "phases" / "runfold.toml"
STARTS = 10
TRANSITION_MS_MAX = 10.0
REPORT_MS_MAX = 100.0
START_MS_MAX = 150.0


def graphs() -> dict[str, tuple[StepSpec, ...]]:
    chain = tuple(StepSpec(id=f"s{i}", needs=(f"s{i - 1}",) if i else ()) for i in range(1_000))
    fan = (StepSpec(id="s0"), *(StepSpec(id=f"s{i}", needs=("s0",)) for i in range(1, 1_000)))
    phases = parse_workflows(EXAMPLE.read_text())["analysis"].steps
    return {"16 phases": phases, "1,000 in a chain": chain, "1,000 in a fan": fan}


async def wishes(name: str, steps: tuple[StepSpec, ...], data: Path) -> list[Figure]:
    log = await SqliteLog.open(data)
    try:
        ledger, run_id, took = Ledger(log, data=data), f"r_{uuid.uuid4().hex[:26]}", list[float]()

        async def wish(command: Command) -> float:
            began = time.perf_counter()
            await ledger.execute(run_id, command, actor="user:bench", tenant="default")
            return (time.perf_counter() - began) * 1_000

        await wish(OpenReported(queued=RunQueued(driver="reported", steps=steps)))
        spent = time.process_time()
        for step in steps:
            took += [await wish(StartStep(step=step.id)), await wish(CompleteStep(step=step.id))]
        spent = (time.process_time() - spent) * 1_000 / len(took)
        cascade = await wish(MarkRerun(step=steps[0].id))
        run = await ledger.state(run_id)
        began = time.perf_counter()
        markdown_report(run)
        report = (time.perf_counter() - began) * 1_000
    finally:
        await log.close()
    return [
        figure(f"transition of a step, {name}", "ms", took),
        Figure(
            work=f"transition of a step, {name}, p95",
            value=percentile(took, 0.95),
            unit="ms",
            ceiling=TRANSITION_MS_MAX,
        ),
        Figure(work=f"processor time of a transition, {name}", value=spent, unit="ms"),
        Figure(work=f"rerun of all, {name}", value=cascade, unit="ms"),
        Figure(work=f"report, {name}", value=report, unit="ms", ceiling=REPORT_MS_MAX),
    ]


def start_of_the_terminal() -> list[float]:
    took: list[float] = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "runfold", "step", "--help"], check=True, capture_output=True)
        took.append((time.perf_counter() - began) * 1_000)
    return took


def measure() -> Iterator[Figure]:
    for name, steps in graphs().items():
        with tempfile.TemporaryDirectory() as folder:
            yield from asyncio.run(wishes(name, steps, Path(folder)))
    yield figure("start of `runfold step`", "ms", start_of_the_terminal(), ceiling=START_MS_MAX)


if __name__ == "__main__":
    sys.exit(show(measure()))

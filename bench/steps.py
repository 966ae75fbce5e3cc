"""What one wish about a step costs: sixteen phases, a thousand steps in a chain and in a fan, on a real log.

`python -m bench.steps` prints milliseconds; the terminal's start is a whole process, from its fork to its exit.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Command, CompleteStep, MarkRerun, OpenReported, StartStep
from runfold.events import RunQueued, StepSpec
from runfold.markdown import markdown_report
from runfold.workflows import parse_workflows

EXAMPLE = Path(__file__).parent.parent / "examples" / "phases" / "runfold.toml"
STARTS = 10


def graphs() -> dict[str, tuple[StepSpec, ...]]:
    chain = tuple(StepSpec(id=f"s{i}", needs=(f"s{i - 1}",) if i else ()) for i in range(1_000))
    fan = (StepSpec(id="s0"), *(StepSpec(id=f"s{i}", needs=("s0",)) for i in range(1, 1_000)))
    phases = parse_workflows(EXAMPLE.read_text())["analysis"].steps
    return {"16 phases": phases, "1,000 in a chain": chain, "1,000 in a fan": fan}


async def measure(name: str, steps: tuple[StepSpec, ...], data: Path) -> None:
    log = await SqliteLog.open(data)
    try:
        ledger, run_id, took = Ledger(log, data=data), f"r_{uuid.uuid4().hex[:26]}", list[float]()

        async def wish(command: Command) -> float:
            began = time.perf_counter()
            await ledger.execute(run_id, command, actor="user:bench", tenant="default")
            return (time.perf_counter() - began) * 1_000

        await wish(OpenReported(queued=RunQueued(driver="reported", steps=steps)))
        for step in steps:
            took += [await wish(StartStep(step=step.id)), await wish(CompleteStep(step=step.id))]
        cascade = await wish(MarkRerun(step=steps[0].id))
        run = await ledger.state(run_id)
        began = time.perf_counter()
        markdown_report(run)
        report = (time.perf_counter() - began) * 1_000
    finally:
        await log.close()
    p95 = statistics.quantiles(took, n=20)[-1]
    print(
        f"{name:18} transition p50 {statistics.median(took):6.2f} ms  p95 {p95:6.2f} ms  "
        f"rerun of all {cascade:7.2f} ms  report {report:6.2f} ms"
    )


def start_of_the_terminal() -> list[float]:
    took: list[float] = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "runfold", "step", "--help"], check=True, capture_output=True)
        took.append((time.perf_counter() - began) * 1_000)
    return took


def main() -> None:
    for name, steps in graphs().items():
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(name, steps, Path(folder)))
    took = start_of_the_terminal()
    print(f"start of `runfold step`: p50 {statistics.median(took):.0f} ms, best {min(took):.0f} ms")


if __name__ == "__main__":
    main()

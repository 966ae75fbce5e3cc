"""Measures whether several processes share one log fairly: five of them append in tight loops for ten seconds.

None may store less than half of the mean, and one append in a hundred may take longer than 100 ms.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.scoreboard import Figure, percentile, show
from eventstore.sqlite import SqliteLog
from runfold.envelope import NewEvent

ROOT = Path(__file__).parent.parent
PROCESSES = 5
SECONDS = 10.0
SHARE_MIN = 0.5  # Of the mean of all processes.
P99_MS_MAX = 100.0


async def write(data: Path, run_id: str, seconds: float) -> None:
    """Append one event after another; print how long each took, in milliseconds."""
    log = await SqliteLog.open(data)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    took: list[float] = []
    last = 0
    ends_at = time.monotonic() + seconds
    while (started := time.monotonic()) < ends_at:
        event = NewEvent(
            id=str(uuid.uuid4()), type="note_added", data=b'{"text":"in a tight loop"}', at_us=time.time_ns() // 1000,
            tenant="default", actor="user:bench",
        )  # fmt: skip
        last = (await log.append(run_id, [event], expected=last)).last
        took.append((time.monotonic() - started) * 1000)
    await log.close()
    print(*(f"{milliseconds:.3f}" for milliseconds in took))


def write_together(data: Path) -> list[list[float]]:
    """The times of every append, by process."""
    command = [sys.executable, "-m", "bench.fairness", str(data)]
    processes = [
        subprocess.Popen([*command, f"r_{number}"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [[float(text) for text in process.communicate()[0].split()] for process in processes]


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        took = write_together(Path(folder))
    everything = [milliseconds for times in took for milliseconds in times]
    mean = statistics.mean(len(times) for times in took)
    shares = [len(times) / mean for times in took]
    yield Figure(
        work=f"{PROCESSES} processes on one log, the slowest",
        value=len(everything) / SECONDS,
        unit="events/s",
        ratio=min(shares),
        beside="their mean",
        floor=SHARE_MIN,
        spread=(min(shares), max(shares)),
    )
    p99 = percentile(everything, 0.99)
    yield Figure(work=f"{PROCESSES} processes on one log, p99", value=p99, unit="ms", ceiling=P99_MS_MAX)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(write(Path(sys.argv[1]), sys.argv[2], SECONDS))
    else:
        sys.exit(show(measure()))

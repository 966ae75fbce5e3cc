"""Measures that an append costs the same in a large log as in a small one, and in a long run as in many short ones.

`python -m bench.growth 20000000 1000000` compares a log of so many events with one of so many; the default is what ten
minutes for all allow. Each is filled anew in every round: twenty million take 12 GB and a quarter of an hour.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.append import CALLERS, EVENTS, ours
from bench.filling import agents, fill, run_name
from bench.scoreboard import Figure, compared, interleaved, show
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Observe, OpenReported
from runfold.events import FileWritten, RunQueued
from runfold.ordered_ids import ordered_id

SMALL = 50_000
LARGE = 500_000
ROUNDS = 3
RUN_EVENTS = 100_000
TOGETHER = 100  # Events a command.
SLOWER_MAX = 1.2
EVENT = FileWritten(path="src/" + "a" * 170 + ".py", bytes=1234, kind="update")


def appended(size: int) -> Callable[[], float]:
    """Events a second, appended to a log of so many events that has just been made."""

    def once() -> float:
        with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
            fill(Path(folder), agents(size))
            asyncio.run(_seal(Path(folder)))
            return asyncio.run(ours(Path(folder), EVENTS, CALLERS, ordered_id, CALLERS))[0]

    return once


async def _seal(folder: Path) -> None:
    """A log that grew by appends has its anchors; one that was filled gets them by being closed."""
    await (await SqliteLog.open(folder)).close()


async def reported(folder: Path, runs: int, events: int) -> float:
    """Seconds of CPU for runs of so many events each, a command of TOGETHER events after the other."""
    log = await SqliteLog.open(folder)
    ledger = Ledger(log)
    started = time.process_time()
    for number in range(runs):
        opened = OpenReported(queued=RunQueued(driver="reported"))
        await ledger.execute(run_name(number), opened, actor="user:bench", tenant="default")
        for _ in range(events // TOGETHER):
            wish = Observe(events=(EVENT,) * TOGETHER)
            await ledger.execute(run_name(number), wish, actor="user:bench", tenant="default")
    seconds = time.process_time() - started
    await log.close()
    return seconds


def spent(runs: int, events: int) -> float:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        return RUN_EVENTS / asyncio.run(reported(Path(folder), runs, events))


def measure() -> Iterator[Figure]:
    given = [int(text) for text in sys.argv[1:3] if text.isdigit()]
    large, small = (*given, *(LARGE, SMALL)[len(given) :])
    found = interleaved(
        ROUNDS,
        {
            "large": appended(large),
            "small": appended(small),
            "long": lambda: spent(1, RUN_EVENTS),
            "short": lambda: spent(RUN_EVENTS // TOGETHER, TOGETHER),
        },
    )
    of, floor = f"append to a log of {large:,} events", 1 / SLOWER_MAX
    yield compared(of, "events/s", found["large"], found["small"], beside=f"one of {small:,}", floor=floor)
    of = f"a run of {RUN_EVENTS:,} events, by CPU time"
    yield compared(of, "events/s", found["long"], found["short"], beside=f"runs of {TOGETHER}", floor=floor)


if __name__ == "__main__":
    sys.exit(show(measure()))

"""Measures folding all views from a log of mixed agent runs, beside plainly reading the same rows.

In seconds of this process alone, as the machine may be shared; the log is written once. What was folded is checked in
processes of their own, which has a figure of its own; where two processes are compared by the clock, it counts.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.filling import agents, fill
from bench.scoreboard import Figure, compared, figure, interleaved, show
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.engine.rebuilding import rebuild

EVENTS = 200_000
ROUNDS = 3
ALL_FLOOR = 200_000.0
SHARED_FLOOR = 1.6


def read_plainly(folder: Path) -> float:
    plain, position = sqlite3.connect(folder / "log.db"), 0
    started = time.process_time()
    while rows := plain.execute(
        "SELECT position, run_id, type, data FROM events WHERE position > ? ORDER BY position LIMIT 500", (position,)
    ).fetchall():
        position = rows[-1][0]
    seconds = time.process_time() - started
    plain.close()
    return seconds


def read_pages(folder: Path) -> float:
    reader, position = open_reader(folder), 0
    started = time.process_time()
    while (page := read_page(reader, after=position)).events:
        position = page.scanned_to
    seconds = time.process_time() - started
    reader.close()
    return seconds


def rebuild_with(folder: Path, names: tuple[str, ...]) -> float:
    started = time.process_time()
    rebuild(folder, views=tuple(view for view in VIEWS if view.name in names))
    return time.process_time() - started


def check(folder: Path, count: int) -> float:
    """Seconds of the process that checks a log before what was folded of it is served."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "eventstore.proof.checking_beside", str(folder), "0", str(count), str(os.getpid())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def shared_with(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds by the clock of two processes and of one: who waits for a process of his own spends no time himself."""

    def once(workers: int) -> float:
        started = time.perf_counter()
        rebuild(folder, workers=workers)
        return time.perf_counter() - started

    took = interleaved(ROUNDS, {"two": lambda: once(2), "one": lambda: once(1)})
    return took["two"], took["one"]


def measure() -> Iterator[Figure]:
    count = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else EVENTS
    names = tuple(view.name for view in VIEWS)
    everything = f"rebuild of all {len(names)} views"
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as name:
        folder = Path(name)
        fill(folder, agents(count))
        reader = open_reader(folder)
        count = reader.execute("SELECT position FROM head").fetchone()[0]
        reader.close()
        works: dict[str, Callable[[], float]] = {
            "read as pages": partial(read_pages, folder),
            everything: partial(rebuild_with, folder, names),
            "check of what was folded": partial(check, folder, count),
            **{f"rebuild of `{name}` alone": partial(rebuild_with, folder, (name,)) for name in names},
        }
        shared = [[count / seconds for seconds in rounds] for rounds in shared_with(folder)]
        took = interleaved(ROUNDS, {"plain": lambda: read_plainly(folder), **works})
    rates = {work: [count / seconds for seconds in rounds] for work, rounds in took.items()}
    yield compared(f"{everything}, two processes", "events/s", *shared, beside="one", floor=SHARED_FLOOR)
    yield figure(f"{everything}, one process", "events/s", rates[everything], floor=ALL_FLOOR)
    for work in works:
        yield compared(work, "events/s", rates[work], rates["plain"], beside="plain rows")


if __name__ == "__main__":
    sys.exit(show(measure()))

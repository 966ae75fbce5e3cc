"""A log of gigabytes: how long it takes to open it, to list its runs and to read one, beside a log of one run.

`python -m bench.big_log [GIGABYTES]` makes it by bulk insert with a true hash chain, in a folder that it removes.
"""

import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.filling import fill, run_name
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from projections.engine.rebuilding import rebuild
from projections.engine.views import Views
from projections.run_list import RunFilter, list_runs
from runfold.events import Event, Message, RunQueued, RunStarted

RUN_EVENTS = 2_000
DATA_BYTES = 2_000
REPEATS = 9


def messages(data: Path, size_bytes: int) -> Iterator[tuple[str, Event]]:
    """Runs of long messages until the log's file has that size."""
    run = 0
    while os.path.getsize(data / "log.db") + _size(data / "log.db-wal") < size_bytes:
        run_id = run_name(run)
        yield run_id, RunQueued(driver="reported")
        yield run_id, RunStarted()
        for number in range(RUN_EVENTS - 2):
            text = hashlib.sha256(f"{run} {number}".encode()).hexdigest() * (DATA_BYTES // 64)
            yield run_id, Message(text=text)
        run += 1


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def timed(function: Callable[[], object]) -> str:
    """The median and the worst of some calls, in milliseconds."""
    took: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        took.append((time.perf_counter() - started) * 1000)
    return f"{statistics.median(took):8.2f} ms (worst {max(took):.2f})"


async def _opened(data: Path) -> None:
    log = await SqliteLog.open(data)
    await log.bounds()
    await log.close()


def _listed(data: Path) -> None:
    views = Views.open(data)
    assert not views.refresh().stale
    assert list_runs(views.connection, RunFilter(tenant=None, limit=50)).items
    views.close()


def _read(data: Path) -> None:
    connection = open_reader(data)
    assert read_page(connection, stream=run_name(0)).events
    connection.close()


def main() -> None:
    size_bytes = int(float(sys.argv[1] if len(sys.argv) > 1 else 1) * 1e9)
    for wanted in (1, size_bytes):
        with tempfile.TemporaryDirectory(prefix="runfold-big-", dir=os.environ.get("BENCH_DIR")) as folder:
            data = Path(folder)
            asyncio.run(_opened(data))
            started = time.perf_counter()
            events = fill(data, messages(data, wanted + _size(data / "log.db")))
            asyncio.run(_opened(data))  # Who closes it seals it, which a log that grew by appends has behind it.
            print(f"{_size(data / 'log.db') / 1e9:.3f} GB, {events:,} events, in {time.perf_counter() - started:.0f} s")
            started = time.perf_counter()
            rebuild(data)
            seconds = time.perf_counter() - started
            print(f"  rebuild of all views {events / seconds:,.0f} events/s")
            print(f"  open to write, close {timed(lambda: asyncio.run(_opened(data)))}")  # noqa: B023
            print(f"  open, list 50 runs   {timed(lambda: _listed(data))}")  # noqa: B023
            print(f"  open, first page     {timed(lambda: _read(data))}")  # noqa: B023


if __name__ == "__main__":
    main()

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
from collections.abc import Callable
from pathlib import Path

from eventstore.chain import data_digest, link
from eventstore.reading import open_reader, read_page, uuid_bytes
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.rebuilding import rebuild
from projections.run_list import RunFilter, list_runs
from projections.views import Views
from runfold.envelope import derived_id

RUN_EVENTS = 2_000
DATA_BYTES = 2_000
REPEATS = 9
NAMESPACE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
OPENING = (("run_queued", b'{"driver":"reported"}'), ("run_started", b"{}"))


def fill(data: Path, size_bytes: int) -> int:
    """Rows as an append writes them, but thousands a transaction; the number of events."""
    connection = sqlite3.connect(data / "log.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    position = run = 0
    while os.path.getsize(data / "log.db") + _size(data / "log.db-wal") < size_bytes:
        run_id, previous = f"r_{run:026d}", b""
        rows: list[tuple[object, ...]] = []
        for version in range(1, RUN_EVENTS + 1):
            position += 1
            name, content = OPENING[version - 1] if version <= len(OPENING) else ("message", _message(position))
            identity, salt = uuid_bytes(derived_id(NAMESPACE, str(position))), position.to_bytes(16, "big")
            previous = link(
                previous,
                tenant="default",
                run_id=run_id,
                version=version,
                identity=identity,
                type_name=name,
                schema=1,
                at_us=position,
                actor="system",
                cause=None,
                command=None,
                sent=None,
                correlation="",
                digest=data_digest(salt, content),
            )
            rows.append(
                (
                    position,
                    run_id,
                    version,
                    identity,
                    name,
                    1,
                    position,
                    position,
                    "default",
                    "system",
                    None,
                    None,
                    None,
                    "",
                    previous,
                    content,
                    salt,
                )
            )
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO events (position, run_id, version, id, type, schema, at_us, recorded_at_us, tenant, actor,"
            " cause, command, sent, correlation, hash, data, salt) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            rows,
        )
        connection.execute("INSERT INTO heads VALUES (?, ?, ?, ?)", (run_id, position, RUN_EVENTS, previous))
        connection.execute("UPDATE head SET position = ?, recorded_at_us = ?", (position, position))
        connection.execute("COMMIT")
        run += 1
    connection.close()
    return position


def _message(position: int) -> bytes:
    text = hashlib.sha256(str(position).encode()).hexdigest() * (DATA_BYTES // 64)
    return b'{"text":"%s"}' % text.encode()


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
    assert read_page(connection, stream=f"r_{0:026d}").events
    connection.close()


def main() -> None:
    size_bytes = int(float(sys.argv[1] if len(sys.argv) > 1 else 1) * 1e9)
    for wanted in (1, size_bytes):
        with tempfile.TemporaryDirectory(prefix="runfold-big-", dir=os.environ.get("BENCH_DIR")) as folder:
            data = Path(folder)
            asyncio.run(_opened(data))
            started = time.perf_counter()
            events = fill(data, wanted + _size(data / "log.db"))
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

"""The log on a cluster of three servers, beside the bare client that appends and reads under the same conditions."""

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from nats.js.errors import BadRequestError

from bench.scoreboard import Figure, compared, figure, show
from deploy.loopback import Cluster as Servers
from eventstore.heap import long_lived
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.cluster import Cluster, connect
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.publishing import BATCHES_MAX, PASSING_SECONDS
from runfold.envelope import NewEvent

SECONDS = 3.0
LOOK_SECONDS = 0.01  # Between two looks at how far another machine has come.
ROUNDS = 3
SINGLES = 300
# 80 % of what the tried code reached that the log's design began with, on two processors.
WRITERS_FLOOR, BATCHES_FLOOR, ONE_WRITER_FLOOR, NEW_MACHINE_FLOOR = 4_560, 14_960, 615, 12_000  # Events a second.
FOLLOWER_CEILING_MS = 2.1
DATA = b'{"text":"' + b"x" * 200 + b'"}'


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Servers(Path(folder) / "cluster")
        try:
            # As a server and a worker run.
            with long_lived():
                yield from asyncio.run(_measure(cluster, Path(folder)))
        finally:
            cluster.stop()


async def _measure(servers: Servers, folder: Path) -> list[Figure]:
    """The bare client and the log one after the other; another machine is there only where it is asked."""
    bare = await connect(parse_address(servers.url(f"bare{uuid.uuid4().hex}")))
    log = await JetStreamLog.connect(parse_address(servers.url(f"log{uuid.uuid4().hex}")), folder / "one")
    try:
        figures: list[Figure] = []
        for work, count, floor in (
            ("64 writers, one event each", 1, WRITERS_FLOOR),
            ("64 writers, batches of ten", 10, BATCHES_FLOOR),
        ):
            theirs, ours = list[float](), list[float]()
            for _ in range(ROUNDS):
                theirs.append(await _rate(partial(_bare_writer, bare, count), 64))
                ours.append(await _rate(partial(_writer, log, count), 64))
            figures.append(compared(work, "events/s", ours, theirs, beside="bare client"))
            figures.append(figure(work, "events/s", ours, floor=floor))
        figures += await _single(log, bare)
        figures.append(await _resume(log, folder))
        figures.append(await _tail(log, folder))
        return figures
    finally:
        await log.close()
        await bare.client.close()


def event() -> NewEvent:
    return NewEvent(
        id=str(uuid.uuid4()), type="message", data=DATA, at_us=time.time_ns() // 1000, tenant="default", actor="user:a"
    )


async def _rate(writer: Callable[[str], Awaitable[int]], writers: int) -> float:
    """Events a second of so many writers, each waiting for its own answer."""
    started = time.perf_counter()
    counts = await asyncio.gather(*(writer(f"r_{uuid.uuid4().hex}") for _ in range(writers)))
    return sum(counts) / (time.perf_counter() - started)


async def _writer(log: JetStreamLog, count: int, run: str) -> int:
    last, done, ends = 0, 0, time.perf_counter() + SECONDS
    while time.perf_counter() < ends:
        last = (await log.append(run, [event() for _ in range(count)], expected=last)).last
        done += count
    return done


async def _bare_writer(cluster: Cluster, count: int, run: str) -> int:
    last, done, ends = 0, 0, time.perf_counter() + SECONDS
    while time.perf_counter() < ends:
        last = await _bare_append(cluster, f"{cluster.name}.{run}", count, last)
        done += count
    return done


_room = asyncio.Semaphore(BATCHES_MAX)


async def _bare_append(cluster: Cluster, subject: str, count: int, last: int) -> int:
    """The same condition and the same bytes, with no contract."""
    while True:
        with suppress(BadRequestError):  # An earlier append, or too many batches, are still on their way.
            return await _bare_try(cluster, subject, count, last)
        await asyncio.sleep(PASSING_SECONDS)


async def _bare_try(cluster: Cluster, subject: str, count: int, last: int) -> int:
    expected = {"Nats-Expected-Last-Subject-Sequence": str(last)}
    if count == 1:
        return (await cluster.jetstream.publish(subject, DATA, headers=expected, timeout=10)).seq
    batch = uuid.uuid4().hex
    headers = [{"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(n + 1)} for n in range(count)]
    headers[0].update(expected)
    headers[-1]["Nats-Batch-Commit"] = "1"
    async with _room:
        for header in headers[:-1]:
            await cluster.client.publish(subject, DATA, headers=header)
        return (await cluster.jetstream.publish(subject, DATA, headers=headers[-1], timeout=10)).seq


async def _single(log: JetStreamLog, bare: Cluster) -> list[Figure]:
    ours, theirs = list[float](), list[float]()
    last = bare_last = 0
    run = f"r_{uuid.uuid4().hex}"
    for _ in range(SINGLES):
        started = time.perf_counter()
        last = (await log.append(run, [event()], expected=last)).last
        between = time.perf_counter()
        bare_last = await _bare_append(bare, f"{bare.name}.{run}", 1, bare_last)
        ours.append(between - started)
        theirs.append(time.perf_counter() - between)
    rate, bare_rate = ([1 / statistics.median(times)] for times in (ours, theirs))
    return [
        compared("one writer", "events/s", rate, bare_rate, beside="bare client"),
        figure("one writer", "events/s", rate, floor=ONE_WRITER_FLOOR),
    ]


async def _tail(log: JetStreamLog, folder: Path) -> Figure:
    """From the append's start to its arrival at a follower on another machine, by the clock that both have."""
    run, last, delays = f"r_{uuid.uuid4().hex}", 0, list[float]()
    async with _elsewhere("follow", log, folder) as arrivals:
        await arrivals.readline()
        for _ in range(SINGLES):
            started = time.perf_counter_ns()
            last = (await log.append(run, [event()], expected=last)).last
            delays.append((int(await arrivals.readline()) - started) / 1e6)
    work = "append to a follower on another machine, median"
    return figure(work, "ms", [statistics.median(delays)], ceiling=FOLLOWER_CEILING_MS)


async def _resume(log: JetStreamLog, folder: Path) -> Figure:
    """A new machine takes in the whole log."""
    async with _elsewhere("take", log, folder) as told:
        rate = float(await told.readline())
    return figure("a new machine takes in the log", "events/s", [rate], floor=NEW_MACHINE_FLOOR)


@asynccontextmanager
async def _elsewhere(work: str, log: JetStreamLog, folder: Path) -> AsyncGenerator[asyncio.StreamReader]:
    """What another process says that has the same log in a folder of its own."""
    last = (await log.bounds()).last
    command = [sys.executable, "-m", "bench.jetstream", work, _url(log), str(folder / uuid.uuid4().hex), str(last)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _be_elsewhere(work: str, url: str, folder: str, last: str) -> None:
    started = time.perf_counter()
    log = await JetStreamLog.connect(parse_address(url), Path(folder))
    # A reader waits for the newest only so long.
    while (await log.bounds()).last < int(last):
        await asyncio.sleep(LOOK_SECONDS)
    print(int(last) / (time.perf_counter() - started), flush=True)
    if work == "follow":
        async with aclosing(log.tail(after=int(last))) as pages:
            async for page in pages:
                arrived = time.perf_counter_ns()
                for _ in page.events:
                    print(arrived, flush=True)
    await log.close()


def _url(log: JetStreamLog) -> str:
    servers = ",".join(str(server.netloc) for server in log.cluster.client.servers)
    return f"nats://{servers}/{log.cluster.name}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with long_lived():
            asyncio.run(_be_elsewhere(*sys.argv[1:]))
    else:
        sys.exit(show(measure()))

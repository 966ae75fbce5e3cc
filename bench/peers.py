"""Measures the same work of the peers, in rounds that alternate with ours: appends, a stream's resume, and a rebuild.

`make peers` installs them, but for Redis, which is measured where `redis-server` is on the path. Each runs in processes
of its own, and through the client that its users have in Python. Ours that resumes is the first client of a server, for
which nothing is ready; it is served over HTTP, and the peers' events are not.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench import append, sse
from bench.filling import agents, fill
from bench.rebuild import rebuild_with
from bench.scoreboard import Figure, compared, interleaved, show
from deploy.loopback import Cluster, free_port
from projections.catalogue import VIEWS
from runfold.ordered_ids import ordered_id

PYTHON = Path(__file__).parents[1] / ".peers" / "bin" / "python"
ROUNDS = 3
REBUILT = 200_000
REDIS_FLOOR, REPLAY_FLOOR, RESUME_FLOOR = 1.7, 1.6, 1.0


def theirs(work: str, *args: object) -> float:
    """Events a second."""
    command = [str(PYTHON), "-m", "bench.peer", work, *map(str, args)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def appended() -> float:
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        work = append.ours(Path(folder), append.EVENTS, append.CALLERS, ordered_id, append.CALLERS)
        return asyncio.run(work)[0]


def rebuilt(folder: Path, count: int) -> float:
    """By the time of the process, as all that `bench.rebuild` measures of one."""
    return count / rebuild_with(folder, tuple(view.name for view in VIEWS))


def resumed() -> float:
    """Events a second of the first client of a server."""

    async def once() -> float:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runfold-bench-")))
            async with sse.server(folder) as (port, log):
                await sse.fill(log)
                await asyncio.to_thread(sse.fold, folder)
                size = len(await sse.take(f"http://127.0.0.1:{port}{sse.PATH}"))
                return sse.EVENTS / (await sse.first(folder, size))["seconds"]

    return asyncio.run(once())


@contextmanager
def redis() -> Iterator[int | None]:
    """The port of a server that answers when an append is on the disk; None where it is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("Redis is left out: `redis-server` is not installed", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as folder:
        port = free_port()
        settings = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes"}
        settings |= {"appendfsync": "always", "auto-aof-rewrite-percentage": 0}
        command = [binary, *(text for name, value in settings.items() for text in (f"--{name}", str(value)))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                # It says a few lines more, which its pipe holds.
                if not any("Ready to accept connections" in line for line in process.stdout):
                    raise SystemExit("`redis-server` has ended before it was ready")
                yield port
            finally:
                process.terminate()


def _compared(
    work: str, found: Mapping[str, list[float]], beside: Mapping[str, tuple[str, float | None]]
) -> Iterator[Figure]:
    for name, (words, floor) in beside.items():
        if name in found:
            yield compared(work, "events/s", found["ours"], found[name], beside=words, floor=floor)


def measure() -> Iterator[Figure]:
    if not PYTHON.exists():
        raise SystemExit("the peers are not installed: `make peers` does it")
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as name, redis() as redis_port:
        cluster = Cluster(Path(name) / "jetstream", 1)
        try:
            ports = {"jetstream": cluster.nodes[0].client_port, **({"redis": redis_port} if redis_port else {})}

            def over(work: str) -> dict[str, Callable[[], float]]:
                remote = {peer: partial(theirs, f"{peer}_{work}", port) for peer, port in ports.items()}
                return {**remote, "eventsourcing": partial(theirs, f"eventsourcing_{work}")}

            found = interleaved(ROUNDS, {"ours": appended, **over("append")})
            yield from _compared(
                "appends of 64 callers",
                found,
                {
                    "redis": ("Redis, always", REDIS_FLOOR),
                    "jetstream": ("JetStream, always", None),
                    "eventsourcing": ("eventsourcing, 8 threads", None),
                },
            )
            found = interleaved(ROUNDS, {"ours": resumed, **over("read")})
            yield from _compared(
                "resume, first client",
                found,
                {
                    "redis": ("Redis, XREAD", None),
                    "jetstream": ("JetStream, a consumer", RESUME_FLOOR),
                    "eventsourcing": ("eventsourcing, pages", RESUME_FLOOR),
                },
            )
            folder = Path(name) / "log"
            folder.mkdir()
            count = fill(folder, agents(REBUILT))
            replay, projection = "eventsourcing_replay", "eventsourcing_projection"
            works = {
                "ours": partial(rebuilt, folder, count),
                **{it: partial(theirs, it) for it in (replay, projection)},
            }
            yield from _compared(
                f"rebuild of all {len(VIEWS)} views",
                interleaved(ROUNDS, works),
                {
                    replay: ("eventsourcing, runs from SQLite", REPLAY_FLOOR),
                    projection: ("eventsourcing, one view in memory", None),
                },
            )
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(show(measure()))

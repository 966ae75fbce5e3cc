"""Writers and followers on three machines while servers of the log are unplugged, in a network of its own.

`python -m tests.torture.partition FOLDER ROUNDS` says how long each machine waited, and fails where anything that was
acknowledged is lost or doubled, or a follower misses something.
"""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

from nats.errors import Error as NatsError

from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.replicas import current_servers
from tests.machines import Machines, Writing
from tests.networks import Plugged, PluggedCluster, leave_network

ELECTION_SECONDS_MIN = 1.0
HEALED_SECONDS_MAX = 90.0
LOOK_SECONDS = 0.1
UNPLUGGED_SECONDS = 3.0  # At least; and until all are answered without that server.


async def main(folder: Path, rounds: int) -> None:
    cluster = await asyncio.to_thread(PluggedCluster, folder / "cluster")
    try:
        async with Machines(cluster, folder) as machines:
            logs = [await machines.add() for _ in range(3)]
            writing = Writing(logs, writers=9, followers=3)
            async with asyncio.TaskGroup() as group:
                writing.start(group)
                for number in range(rounds):
                    await writing.until_everybody_wrote()
                    node = await _victim(cluster, logs, number)
                    beside = [n for n, log in enumerate(logs) if _host_of(log) == node.address]
                    began = time.monotonic()
                    node.unplug()
                    waited = await asyncio.gather(*(_answered(writing, n) for n in range(len(logs))))
                    # Nothing is granted without the leader until another is elected; else nobody was unplugged.
                    assert number % 2 or max(waited) > ELECTION_SECONDS_MIN, waited
                    await asyncio.sleep(max(0.0, UNPLUGGED_SECONDS - (time.monotonic() - began)))
                    node.plug()
                    marks = [" beside it" if n in beside else "" for n in range(len(logs))]
                    shown = ", ".join(f"{seconds:.1f}{mark}" for seconds, mark in zip(waited, marks, strict=True))
                    print(f"{node.name}{' led' * (not number % 2)}: {shown}", end="", flush=True)
                    print(f"; {await _healed(logs[0]):.1f} s after it was back all were one again", flush=True)
                await writing.until_everybody_wrote()
                await writing.finish()
    finally:
        cluster.stop()
    print("nothing was lost or doubled", flush=True)


async def _answered(writing: Writing, at: int) -> float:
    """How long all writers of a machine waited: what was on its way has its answer, and what came after."""
    return sum([await writing.until_everybody_wrote(at=at) for _ in range(2)])


async def _healed(log: JetStreamLog) -> float:
    """How long it took until every server had all again; before that, to unplug another would leave no majority."""
    began = time.monotonic()
    async with asyncio.timeout(HEALED_SECONDS_MAX):
        while True:
            with suppress(NatsError, TimeoutError):
                if len(await current_servers(log.cluster)) == len(log.cluster.client.servers):
                    return time.monotonic() - began
            await asyncio.sleep(LOOK_SECONDS)


async def _victim(cluster: PluggedCluster, logs: list[JetStreamLog], number: int) -> Plugged:
    """The leader, and the server that a machine is connected to, in turn."""
    if number % 2:
        host = _host_of(logs[number % len(logs)])
        return next(node for node in cluster.nodes if node.address == host)
    held = (await logs[0].cluster.jetstream.stream_info(logs[0].cluster.name)).cluster
    return next(node for node in cluster.nodes if held is not None and node.name == held.leader)


def _host_of(log: JetStreamLog) -> str | None:
    url = log.cluster.client.connected_url
    return None if url is None else url.hostname


if __name__ == "__main__":
    leave_network()
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

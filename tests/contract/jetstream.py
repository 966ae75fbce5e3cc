"""The contract's backend on a real cluster of three servers, which the tests of one process share."""

import atexit
import functools
import shutil
import tempfile
import uuid
from pathlib import Path

from deploy.loopback import Cluster
from eventstore.contract import EventLog
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.log import JetStreamLog
from tests.contract.events import START_US


@functools.cache
def shared_cluster() -> Cluster:
    """One for all tests of this process; each test has a log of its own in it."""
    folder = Path(tempfile.mkdtemp(prefix="runfold-nats-"))
    cluster = Cluster(folder)

    def end() -> None:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return cluster


class Replicated:
    """Two servers with a mirror each, on one cluster of three."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.now_us = START_US
        self.address = parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}"))
        self._opened: list[JetStreamLog] = []

    async def open(self) -> EventLog:
        return await self._connect("one")

    async def second(self) -> EventLog:
        return await self._connect("two")

    async def _connect(self, folder: str) -> EventLog:
        log = await JetStreamLog.connect(self.address, self.data / folder, now_us=lambda: self.now_us)
        self._opened.append(log)
        return log

    async def trim(self, position: int) -> None:
        await self._opened[-1].cluster.jetstream.purge_stream(self.address.name, seq=position + 1)

    async def close(self) -> None:
        for log in self._opened:
            await log.close()

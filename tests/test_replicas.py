"""What each server holds of a log is read at that server, and compared with a mirror."""

import asyncio
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.loopback import Cluster, Node
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.comparing import compare_stream
from eventstore.jetstream.log import JetStreamLog
from eventstore.log_file import open_reader
from eventstore.proof.faults import Fault
from tests.contract.events import all_events, numbered

EVENTS = 40
WITHIN_SECONDS = 60
pytestmark = pytest.mark.slow


class Kept:
    """A log of `EVENTS` events on three servers of its own, and a mirror of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(folder / "cluster")

    async def open(self) -> None:
        self.log = await JetStreamLog.connect(parse_address(self.cluster.url("log")), self.folder / "data")
        await self.log.append("r_a", numbered(0, EVENTS), expected=0)

    async def compared(self) -> tuple[dict[str, int], list[Fault]]:
        with closing(open_reader(self.folder / "data")) as connection:
            return await compare_stream(connection, parse_address(self.cluster.url("log")))

    async def follower(self) -> Node:
        kept = (await self.log.cluster.jetstream.stream_info("log")).cluster
        return next(node for node in self.cluster.nodes if kept is not None and node.name != kept.leader)

    def alter(self, node: Node, old: bytes, new: bytes) -> None:
        """Change the file of a server's copy, while it is down."""
        (block,) = (self.folder / "cluster" / node.name).rglob("streams/log/msgs/*.blk")
        content = block.read_bytes()
        assert content.count(old) == 1
        block.write_bytes(content.replace(old, new))


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncGenerator[Kept]:
    kept = Kept(tmp_path)
    try:
        await kept.open()
        yield kept
        await kept.log.close()
    finally:
        kept.cluster.stop()


async def test_every_server_s_own_copy_is_compared_with_the_mirror(kept: Kept) -> None:
    assert await kept.compared() == ({"n1": EVENTS, "n2": EVENTS, "n3": EVENTS}, [])


async def test_a_server_that_is_down_is_not_taken_for_a_damaged_one(kept: Kept) -> None:
    down = await kept.follower()
    down.kill()

    counts, found = await kept.compared()

    assert found == []
    assert {name: count for name, count in counts.items() if name != down.name} == {
        node.name: EVENTS for node in kept.cluster.nodes if node is not down
    }


async def test_a_server_whose_copy_was_altered_is_named_and_gets_it_anew_from_the_others(kept: Kept) -> None:
    altered, event = await kept.follower(), (await all_events(kept.log))[EVENTS // 2]
    altered.kill(signal.SIGTERM)
    kept.alter(altered, event.data or b"", b"x" * len(event.data or b""))
    altered.start()
    kept.cluster.wait_until_ready()

    counts, (fault,) = await kept.compared()

    assert f"in the stream at {altered.name}: the server falls silent" in fault.message
    assert counts[altered.name] < EVENTS
    assert [count for name, count in counts.items() if name != altered.name] == [EVENTS, EVENTS]

    altered.kill()
    shutil.rmtree(kept.folder / "cluster" / altered.name / "js")
    altered.start()
    kept.cluster.wait_until_ready()
    async with asyncio.timeout(WITHIN_SECONDS):
        while len((again := await kept.compared())[0]) < len(kept.cluster.nodes):
            pass
    assert again == ({"n1": EVENTS, "n2": EVENTS, "n3": EVENTS}, [])

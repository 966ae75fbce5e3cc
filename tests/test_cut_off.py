"""Who is connected to a server that takes nothing, or knows of nothing new, is answered in time, and by another one."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from api.sessions import Scope, Sessions
from deploy.loopback import Cluster
from eventstore.contract import Appended
from eventstore.jetstream import mirroring, patience
from eventstore.jetstream.address import Address, parse_address
from eventstore.jetstream.connection import Connection
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.mirroring import PATIENCE_SECONDS
from projections.tokens import TokenBook, digest_of
from runfold.errors import Diverged, Unavailable
from tests.contract.events import all_events, new_event
from tests.contract.jetstream import shared_cluster
from tests.wires import WiredCluster

WITHIN_SECONDS = 45


@pytest.fixture
def lone_server(tmp_path: Path) -> Generator[Cluster]:
    """One server, which is no cluster."""
    server = Cluster(tmp_path / "server", size=1)
    yield server
    server.nodes[0].go_on()
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 3])
async def test_an_append_is_answered_in_time_whatever_becomes_of_the_connection(
    tmp_path: Path, lone_server: Cluster, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    log = await JetStreamLog.connect(parse_address(lone_server.url("log")), tmp_path / "data", replicas=1)
    try:
        # Those that come together go another way than the one that comes alone as the one before it did.
        done = await asyncio.gather(*(log.append(f"r_{number}", [new_event()], expected=0) for number in range(before)))
        sent, expected = [new_event()], done[0].last
        lone_server.nodes[0].stand_still()
        monkeypatch.setattr(patience, "APPEND_SECONDS_MAX", 0.2)

        with pytest.raises(Unavailable) as refused:
            async with asyncio.timeout(PATIENCE_SECONDS / 2):
                await log.append("r_0", sent, expected=expected)
        monkeypatch.setattr(patience, "APPEND_SECONDS_MAX", WITHIN_SECONDS)
        lone_server.nodes[0].go_on()
        again = await log.append("r_0", sent, expected=expected)

        assert "same ids" in refused.value.hint
        assert again.events[0].id == sent[0].id
        assert [event.id for event in await all_events(log, stream="r_0")].count(sent[0].id) == 1
    finally:
        lone_server.nodes[0].go_on()
        await log.close()


@pytest.mark.slow
async def test_who_waits_for_what_is_not_delivered_goes_to_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "ELSEWHERE_SECONDS", 0.1)
    monkeypatch.setattr(mirroring, "LOOK_AGAIN_SECONDS", 0.05)
    log = await JetStreamLog.connect(parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}")), tmp_path)
    try:
        appended = await log.append("r_a", [new_event()], expected=0)
        before = log.cluster.client.connected_url
        waiting = asyncio.create_task(log._reach(appended.last + 1))

        async with asyncio.timeout(WITHIN_SECONDS):
            while log.cluster.client.connected_url in (before, None):
                await asyncio.sleep(0)
        await log.append("r_a", [new_event()], expected=appended.last)
        await waiting
    finally:
        await log.close()


@pytest.mark.slow
async def test_a_connection_leaves_a_server_that_takes_nothing_of_what_is_to_be_sent(tmp_path: Path) -> None:
    servers = [Cluster(tmp_path / name, size=1) for name in ("one", "two")]
    ports = [server.nodes[0].client_port for server in servers]
    connection = Connection()
    answers: list[bytes | Exception] = []
    try:
        await connection.connect([f"nats://127.0.0.1:{port}" for port in ports], dont_randomize=True)
        servers[0].nodes[0].stand_still()
        size = 512 * 1024
        for _ in range(40):
            connection.ask_at_once(
                lambda _reply: b"PUB a %d\r\n%b\r\n" % (size, bytes(size)), timeout_seconds=60, answered=answers.append
            )
        await connection.force_reconnect()

        async with asyncio.timeout(WITHIN_SECONDS):
            while connection.is_reconnecting or not connection.is_connected:
                await asyncio.sleep(0)

        assert connection.connected_url is not None
        assert connection.connected_url.port == ports[1]
    finally:
        await connection.close()
        for server in servers:
            server.stop()


@pytest.mark.slow
async def test_a_connection_tries_on_where_it_meets_what_its_client_did_not_foresee(
    lone_server: Cluster,
) -> None:
    met = asyncio.Event()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO []\r\n")
        writer.close()
        met.set()

    stranger = await asyncio.start_server(greet, "127.0.0.1", 0)
    ports = (lone_server.nodes[0].client_port, stranger.sockets[0].getsockname()[1])
    connection = Connection()
    try:
        await connection.connect(
            [f"nats://127.0.0.1:{port}" for port in ports], dont_randomize=True, reconnect_time_wait=0
        )
        await connection.force_reconnect()
        await met.wait()

        async with asyncio.timeout(WITHIN_SECONDS):
            while not connection.is_connected:
                await asyncio.sleep(0)
            await connection.flush()
    finally:
        await connection.close()
        stranger.close()


class CutOff:
    """Machines on a cluster whose leader is cut from the other servers, but not from them."""

    def __init__(self, cluster: WiredCluster, folder: Path, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self._name, self._folder, self._stack = f"t{uuid.uuid4().hex}", folder, stack

    async def add(self, number: int, ports: list[int]) -> JetStreamLog:
        """A machine that is connected to the first of these servers, and knows the others."""
        servers = [f"nats://127.0.0.1:{port}" for port in ports]
        log = await JetStreamLog.connect(Address(servers=(servers[0],), name=self._name), self._folder / str(number))
        self._stack.push_async_callback(log.close)
        log.cluster.client.set_server_pool([*servers[1:], servers[0]])
        return log


@pytest.fixture
async def cut_off(tmp_path: Path) -> AsyncGenerator[CutOff]:
    cluster = await WiredCluster.open(tmp_path / "cluster")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.close)
        yield CutOff(cluster, tmp_path, stack)


async def _appended(log: JetStreamLog, run_id: str, expected: int) -> Appended:
    """Sent again with the same ids until it is answered."""
    sent = [new_event()]
    while True:
        try:
            return await log.append(run_id, sent, expected=expected)
        except Unavailable:
            continue


@pytest.mark.slow
async def test_a_place_that_a_machine_may_not_have_heard_of_is_not_called_another_history(
    tmp_path: Path, lone_server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "FRESH_SECONDS", 0.1)
    log = await JetStreamLog.connect(parse_address(lone_server.url("log")), tmp_path / "data", replicas=1)
    try:
        lone_server.nodes[0].kill()

        with pytest.raises(Unavailable, match="position 1"):
            await log.page(after=1)
        lone_server.nodes[0].start()
        monkeypatch.setattr(mirroring, "FRESH_SECONDS", WITHIN_SECONDS)
        async with asyncio.timeout(WITHIN_SECONDS):
            while log.behind_seconds:
                await log.bounds()

        with pytest.raises(Diverged):
            await log.page(after=1)
    finally:
        await log.close()


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_SECONDS * 3)
async def test_who_is_connected_to_a_server_that_is_cut_off_is_answered_by_another_and_misses_nothing(
    cut_off: CutOff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "ELSEWHERE_SECONDS", 2.0)
    nodes = {node.name: node for node in cut_off.cluster.nodes}
    elsewhere = await cut_off.add(0, [node.client_port for node in nodes.values()])
    held = (await elsewhere.cluster.jetstream.stream_info(elsewhere.cluster.name)).cluster
    assert held is not None
    assert held.leader is not None
    leader = nodes.pop(held.leader)
    ports = [leader.client_port, *(node.client_port for node in nodes.values())]
    writer, follower = [await cut_off.add(number, ports) for number in (1, 2)]
    free = await cut_off.add(3, ports[1:])
    first = await writer.append("r_a", [new_event()], expected=0)
    await all_events(follower)

    cut_off.cluster.cut(leader)
    async with asyncio.timeout(WITHIN_SECONDS), aclosing(follower.tail(after=first.last)) as pages:
        theirs, own = await asyncio.gather(_appended(free, "r_b", 0), _appended(writer, "r_a", first.last))
        seen = list[int]()
        while len(seen) < 2:
            seen += [event.position for event in (await anext(pages)).events]

    assert seen == sorted([theirs.last, own.last])
    async with asyncio.timeout(WITHIN_SECONDS):
        # A reader whose leader is silent is given what his machine has.
        while [event.position for event in await all_events(writer)] != [first.last, *seen]:
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_who_was_let_in_elsewhere_is_sent_away_only_by_who_can_tell(
    tmp_path: Path, lone_server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "FRESH_SECONDS", 0.2)
    admin = Scope(tenant="*", role="admin", actor="user:admin", digest=digest_of("token"))
    logs: list[JetStreamLog] = []
    try:
        for name in ("one", "two"):
            data = tmp_path / name
            logs.append(await JetStreamLog.connect(parse_address(lone_server.url("log")), data, replicas=1))
        one, two = (
            Sessions({admin.digest: admin}, TokenBook(log), data=tmp_path / name, is_shared=True)
            for name, log in zip(("one", "two"), logs, strict=True)
        )
        secret = await one.open_session(admin)
        lone_server.nodes[0].stand_still()
        with pytest.raises(Unavailable):
            await two.look_again()
        lone_server.nodes[0].go_on()
        async with asyncio.timeout(WITHIN_SECONDS):
            while not await answered(two.look_again):
                await asyncio.sleep(0)

        known = two.scope_of_session(secret)
        assert known is not None
        assert known.actor == admin.actor
    finally:
        lone_server.nodes[0].go_on()
        for log in logs:
            await log.close()


@pytest.mark.slow
async def test_a_token_that_was_made_elsewhere_a_moment_ago_logs_in(tmp_path: Path, lone_server: Cluster) -> None:
    logs: list[JetStreamLog] = []
    try:
        for name in ("one", "two"):
            data = tmp_path / name
            logs.append(await JetStreamLog.connect(parse_address(lone_server.url("log")), data, replicas=1))
        made = await TokenBook(logs[0]).create(name="anna", tenant="default", role="operator", actor="user:admin")
        there = Sessions({}, TokenBook(logs[1]), data=tmp_path / "two", is_shared=True)

        scope = await there.scope_of_given(made.secret)

        assert scope is not None
        assert scope.actor == "user:anna"
        assert await there.scope_of_given("rf_of_nobody") is None
    finally:
        for log in logs:
            await log.close()


async def answered(ask: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await ask()
    except Unavailable:
        return False

"""Several machines on one replicated log: one winner each time, and nothing lost with a server or a worker."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from api.app import make_app
from api.server_figures import server_figures
from api.service import SERVICE
from deploy.loopback import Cluster, Node
from eventstore.contract import Appended
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.presence import JetStreamPresence
from eventstore.ledger import Ledger
from projections.service import ViewService
from runfold.commands import Claim, Queue, Start
from runfold.errors import Conflict, Fenced
from runfold.events import RunQueued
from runner.recovering.elsewhere import lose_silent
from tests.contract.events import all_events, new_event, numbered
from tests.contract.jetstream import shared_cluster
from tests.effort import IS_LONG
from tests.machines import WITHIN_SECONDS, Machines, Writing
from tests.wires import WiredCluster

RACES = 200 if IS_LONG else 25
KILLS = 20 if IS_LONG else 1
STANDS = 20 if IS_LONG else 1
CUTS = 10 if IS_LONG else 1
GAP_SECONDS = 12.0  # Until all writers are answered again; a new leader is elected in 4 to 9.


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncGenerator[Machines]:
    async with Machines(shared_cluster(), tmp_path) as made:
        yield made


@pytest.mark.slow
async def test_of_eight_servers_that_race_for_one_append_exactly_one_wins(machines: Machines) -> None:
    logs = [await machines.add() for _ in range(8)]
    last, winners = 0, list[int]()

    for _ in range(RACES):
        outcomes = await asyncio.gather(
            *(log.append("r_a", [new_event()], expected=last) for log in logs), return_exceptions=True
        )
        won = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
        assert {type(outcome) for outcome in outcomes} <= {Appended, Conflict}
        winners.append(len(won))
        last = won[0].last

    assert winners == [1] * RACES
    assert [event.version for event in await all_events(logs[-1])] == list(range(1, RACES + 1))


async def test_a_name_that_falls_silent_is_gone_for_every_machine(machines: Machines) -> None:
    clusters = [(await machines.add()).cluster for _ in range(2)]
    one, two = [JetStreamPresence(cluster) for cluster in clusters]
    assert not await two.is_alive("host:1")
    await one.beat("host:1")
    await one.beat("host:2")
    assert await two.is_alive("host:1")
    await one.leave("host:2")
    assert not await two.is_alive("host:2")
    await JetStreamPresence(clusters[0], alive_seconds=1).beat("host:1")
    async with asyncio.timeout(WITHIN_SECONDS):
        while await two.is_alive("host:1"):
            await asyncio.sleep(0)


async def test_the_run_of_a_machine_that_fell_silent_goes_on_elsewhere_and_the_old_worker_is_fenced(
    machines: Machines,
) -> None:
    one, two = await machines.add(), await machines.add()
    here, there = Ledger(one), Ledger(two)
    queued = RunQueued(title="t", driver="queue", command=("true",), on_lost="resume")
    await here.execute("r_a", Queue(queued=queued), actor="user:a", tenant="default")
    claimed = await here.execute("r_a", Claim(worker="one:1"), actor="worker:one:1", tenant="default")
    presence = JetStreamPresence(two.cluster)
    await presence.beat("one:1")

    assert await lose_silent(there, presence, [claimed.run]) == []
    await presence.leave("one:1")
    assert await lose_silent(there, presence, [claimed.run]) == ["r_a"]

    taken = await there.execute("r_a", Claim(worker="two:1"), actor="worker:two:1", tenant="default")
    assert taken.run.claim == claimed.run.claim + 1
    with pytest.raises(Fenced):
        await here.execute("r_a", Start(claim=claimed.run.claim), actor="worker:one:1", tenant="default")
    assert await lose_silent(there, presence, [claimed.run]) == []


@pytest.mark.slow
async def test_an_admin_sees_the_workers_of_every_machine_and_which_of_them_fell_silent(
    machines: Machines, tmp_path: Path
) -> None:
    one, two = await machines.add(), await machines.add()
    here, presence = Ledger(one), JetStreamPresence(one.cluster)
    for run_id, worker in (("r_a", "one:1"), ("r_b", "one:2")):
        await here.execute(run_id, Queue(queued=RunQueued(driver="queue")), actor="user:a", tenant="default")
        claim = Claim(worker=worker, host="one")
        await here.execute(run_id, claim, actor=f"worker:{worker}", tenant="default")
        await presence.beat(worker)
    await presence.leave("one:2")
    for name in ("three:7", "reporter of r_a"):
        await presence.beat(name)
    await Ledger(two).state("r_b")
    views = await ViewService.open(tmp_path / "2")
    try:
        app = make_app(
            log=two, ledger=Ledger(two), views=views, data=tmp_path / "2", token="t", allowed_hosts=frozenset()
        )

        figures = await server_figures(app[SERVICE])
    finally:
        await views.close()

    assert [(it.name, it.host, it.runs, it.is_alive) for it in figures.workers] == [
        ("one:1", "one", 1, True),
        ("one:2", "one", 1, False),
        ("three:7", "three", 0, True),
    ]
    assert [(it.run_id, it.expires_at, it.is_expired) for it in figures.leases] == [
        ("r_a", None, False),
        ("r_b", None, True),
    ]


@pytest.mark.slow
async def test_without_its_servers_a_log_is_read_as_it_was_and_says_for_how_long(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        async with Machines(cluster, tmp_path) as machines:
            log = await machines.add()
            appended = await log.append("r_a", numbered(0, 3), expected=0)
            await log.bounds()
            assert log.behind_seconds == 0
            for node in cluster.nodes:
                node.kill()

            assert await all_events(log) == list(appended.events)
            assert log.behind_seconds > 0
            for node in cluster.nodes:
                node.start()
            added = await log.append("r_a", numbered(3, 1), expected=appended.last)

            assert await all_events(log, after=appended.last) == list(added.events)
    finally:
        cluster.stop()


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_SECONDS * (KILLS + 1))
async def test_what_was_acknowledged_outlives_servers_and_every_follower_sees_it_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        async with Machines(cluster, tmp_path) as machines:
            logs = [await machines.add() for _ in range(2)]
            writing = Writing(logs, writers=32 if IS_LONG else 8, followers=50 if IS_LONG else 4)
            async with asyncio.TaskGroup() as group:
                writing.start(group)
                gaps: list[float] = []
                for number in range(KILLS):
                    await writing.until_everybody_wrote()
                    victims = await _victims(cluster, logs[0], number)
                    for node in victims:
                        node.kill()
                    if len(victims) < len(cluster.nodes):
                        gaps.append(await writing.until_everybody_wrote())
                    for node in victims:
                        node.start()
                    began = time.monotonic()
                    await asyncio.to_thread(cluster.wait_until_ready)
                    await writing.until_everybody_wrote()
                    if len(victims) == len(cluster.nodes):
                        gaps.append(time.monotonic() - began)
                await writing.finish()
        print([f"{gap:.1f} s" for gap in gaps])
        # The short form runs beside other tests.
        assert not IS_LONG or max(gaps) < GAP_SECONDS, gaps
    finally:
        cluster.stop()


async def _victims(cluster: Cluster, log: JetStreamLog, number: int) -> list[Node]:
    """The leader, then each server in turn, then all; and from the start."""
    if number % 5 == 4:
        return cluster.nodes
    if number % 5:
        return [cluster.nodes[number % 5 - 1]]
    held = await log.cluster.jetstream.stream_info(log.cluster.name)
    return [node for node in cluster.nodes if held.cluster is not None and node.name == held.cluster.leader]


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_SECONDS * (STANDS + 2))
async def test_a_server_that_stands_still_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        async with Machines(cluster, tmp_path) as machines:
            logs = [await machines.add() for _ in range(2)]
            writing = Writing(logs, writers=8, followers=4)
            gaps: list[float] = []
            async with asyncio.TaskGroup() as group:
                writing.start(group)
                for number in range(STANDS):
                    await writing.until_everybody_wrote()
                    # One that a machine is connected to, then the leader, and each in turn.
                    connected = [node for node in cluster.nodes if node.client_port == _port_of(logs[0])]
                    (still,) = connected if number % 2 == 0 else await _victims(cluster, logs[0], number // 2 % 4)
                    still.stand_still()
                    gaps.append(await writing.until_everybody_wrote())
                    still.go_on()
                    await asyncio.to_thread(cluster.wait_until_ready)
                await writing.finish()
        print([f"{gap:.1f} s" for gap in gaps])
    finally:
        for node in cluster.nodes:
            node.go_on()
        cluster.stop()


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_SECONDS * (CUTS * 2 + 2))
async def test_a_leader_that_is_cut_from_the_others_grants_nothing_and_all_go_on(
    tmp_path: Path,
) -> None:
    cluster = await WiredCluster.open(tmp_path / "cluster")
    try:
        async with Machines(cluster, tmp_path) as machines:
            logs = [await machines.add() for _ in range(3)]
            writing = Writing(logs, writers=9, followers=3)
            gaps: list[float] = []
            async with asyncio.TaskGroup() as group:
                writing.start(group)
                for _ in range(CUTS):
                    await writing.until_everybody_wrote()
                    (leader,) = await _victims(cluster, logs[0], 0)
                    free = [n for n, log in enumerate(logs) if _port_of(log) != leader.client_port]
                    cluster.cut(leader)
                    gaps += [await writing.until_everybody_wrote(at=number) for number in free[:1]]
                    cluster.mend(leader)
                    await asyncio.to_thread(cluster.wait_until_ready)
                    await writing.until_everybody_wrote()
                await writing.finish()
        print([f"{gap:.1f} s" for gap in gaps])
    finally:
        await cluster.close()


def _port_of(log: JetStreamLog) -> int | None:
    """Of the server that a machine is connected to."""
    url = log.cluster.client.connected_url
    return None if url is None else url.port

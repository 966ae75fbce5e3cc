"""A log moves onto a cluster and back with its positions, ids and hashes; nothing is lost on the way."""

import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from eventstore.jetstream import moving
from eventstore.jetstream.address import Address, parse_address
from eventstore.jetstream.cluster import connect, stream_state
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.publishing import Publisher
from eventstore.log_file import open_reader
from eventstore.mirrored import mirrored_log
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.errors import BadRequest, Conflict, NotAllowed
from tests.contract.events import all_events, numbered
from tests.contract.events import run as ended_run
from tests.contract.jetstream import shared_cluster
from tests.terminal import read, record, runfold

RUNS = 40
EVENTS = 20


@pytest.fixture
def address() -> Address:
    return parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}"))


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A log of runs whose events stand among each other's."""
    log = await SqliteLog.open(tmp_path / "data")
    last = dict.fromkeys(range(RUNS), 0)
    for start in range(0, EVENTS, 4):
        for run in range(RUNS):
            last[run] = (await log.append(f"r_{run}", numbered(start, 4), expected=last[run])).last
    await log.close()
    return tmp_path / "data"


def rows(data: Path, table: str, order: str) -> list[Any]:
    with closing(open_reader(data)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()


def silent(_done: int, _total: int) -> None:
    pass


async def test_a_log_on_a_cluster_is_the_same_log_event_for_event(
    folder: Path, address: Address, tmp_path: Path
) -> None:
    before = rows(folder, "events", "position"), rows(folder, "heads", "run_id"), rows(folder, "head", "one")

    assert await moving.move_to_cluster(folder, address, tell=silent) == RUNS * EVENTS

    other = await JetStreamLog.connect(address, tmp_path / "other")
    try:
        added = await other.append("r_new", numbered(0, 1), expected=0)
    finally:
        await other.close()
    assert added.last == RUNS * EVENTS + 1
    copied = rows(tmp_path / "other", "events", "position")
    assert copied[:-1] == before[0]
    assert [row for row in rows(tmp_path / "other", "heads", "run_id") if row[0] != "r_new"] == before[1]
    assert rows(tmp_path / "other", "head", "one")[0][1] == before[2][0][1]
    # The folder goes on as a mirror, from where it was.
    mirror = await JetStreamLog.connect(address, folder)
    try:
        assert [event.position for event in await all_events(mirror, after=RUNS * EVENTS)] == [added.last]
    finally:
        await mirror.close()


async def test_a_copy_that_was_cut_off_goes_on_where_it_ended(folder: Path, address: Address) -> None:
    class CutOffError(Exception):
        pass

    def cut_off(done: int, _total: int) -> None:
        if done:
            raise CutOffError

    with pytest.raises(CutOffError):
        await moving.move_to_cluster(folder, address, tell=cut_off)
    assert mirrored_log(folder) is None
    told = list[int]()

    await moving.move_to_cluster(folder, address, tell=lambda done, _: told.append(done))

    assert told[0] > 0
    assert told[-1] == RUNS * EVENTS
    assert mirrored_log(folder) is not None


async def test_a_cluster_that_holds_another_log_is_left_alone(folder: Path, address: Address, tmp_path: Path) -> None:
    other = await JetStreamLog.connect(address, tmp_path / "other")
    await other.append("r_other", numbered(0, 1), expected=0)
    await other.close()

    with pytest.raises(BadRequest, match="holds another log"):
        await moving.move_to_cluster(folder, address, tell=silent)

    cluster = await connect(address)
    assert (await stream_state(cluster)).state.last_seq == 1
    await cluster.client.close()
    assert mirrored_log(folder) is None


async def test_a_trimmed_log_moves_and_its_holes_stay_holes(folder: Path, address: Address, tmp_path: Path) -> None:
    log = await SqliteLog.open(folder)
    for name in ("r_first", "r_second"):
        await log.append(name, ended_run(), expected=0)
    assert await log.trim(["r_first"], actor="user:a") == ("r_first",)
    (last,) = [event.position for event in await all_events(log, stream="$runfold")]
    await log.append("r_later", ended_run(), expected=0)
    await log.close()
    before = [rows(folder, table, "1") for table in ("events", "heads", "head")]

    def cut_off(done: int, _total: int) -> None:
        if done > last - 4:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        await moving.move_to_cluster(folder, address, tell=cut_off)
    await moving.move_to_cluster(folder, address, tell=silent)

    other = await JetStreamLog.connect(address, tmp_path / "other")
    try:
        await other.bounds()
        moved = [rows(tmp_path / "other", table, "1") for table in ("events", "heads", "head")]
        assert moved[:2] == before[:2]
        assert moved[2][0][1:3] == before[2][0][1:3]
        assert moved[2][0][4] == before[2][0][4]
        with pytest.raises(Conflict):
            await other.append("r_first", numbered(0, 1), expected=0)
        cluster = await connect(address)
        plan = Planned("r_first", 0, (b"",))
        assert await Publisher(cluster).publish([plan]) == [0]
        await cluster.client.close()
    finally:
        await other.close()
    with closing(open_reader(tmp_path / "other")) as connection:
        assert [fault.message for fault in Proof(connection).faults()] == []
    back = await moving.move_to_folder(address, tmp_path / "back")
    assert back == before[2][0][2]
    assert rows(tmp_path / "back", "events", "1") == before[0]


async def test_a_log_that_lacks_events_is_not_moved(folder: Path, address: Address) -> None:
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_remain")
    connection.execute("DELETE FROM events WHERE position = 7")
    connection.close()

    with pytest.raises(NotAllowed, match="no longer has 1 of its"):
        await moving.move_to_cluster(folder, address, tell=silent)


async def test_whoever_had_the_folder_open_writes_to_it_no_more(folder: Path, address: Address) -> None:
    log = await SqliteLog.open(folder)
    try:
        await moving.move_to_cluster(folder, address, tell=silent)

        with pytest.raises(Exception, match="mirrors the replicated log"):
            await log.append("r_late", numbered(0, 1), expected=0)
    finally:
        await log.close()


@pytest.mark.slow
def test_a_log_moves_onto_a_cluster_and_back_by_the_command_line(tmp_path: Path, address: Address) -> None:
    record(tmp_path / "data")
    run = read(tmp_path / "data", "ps")["items"][0]["id"]
    redacted = runfold(tmp_path / "data", "redact", run, "--text", "hello")
    url = f"nats://{','.join(server.removeprefix('nats://') for server in address.servers)}/{address.name}"

    there = runfold(tmp_path, "log", "copy", f"sqlite:{tmp_path / 'data'}", url)
    back = runfold(tmp_path, "log", "copy", url, f"sqlite:{tmp_path / 'back'}")

    assert redacted.returncode == 0, redacted.stderr
    assert there.returncode == 0, there.stderr
    assert back.returncode == 0, back.stderr
    assert read(tmp_path / "back", "events", run)["items"] == read(tmp_path / "data", "events", run)["items"]
    assert runfold(tmp_path / "back", "ps").returncode == 0
    assert record(tmp_path / "back").returncode == 0
    assert len(read(tmp_path / "data", "ps")["items"]) == 1

"""The replicated log's address and subjects; what it promises is in `tests/contract`."""

import asyncio
import socket
import sys
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from cli.log_servers import _durability
from deploy.loopback import Cluster
from eventstore.jetstream.address import Address, parse_address, without_password
from eventstore.jetstream.cluster import connect
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.messages import subject_of
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.publishing import BATCH_EVENTS_MAX, Publisher
from eventstore.keeping.copy_keeping import Keeper
from eventstore.ledger import Ledger
from eventstore.log_file import open_reader
from eventstore.proof.faults import Fault
from eventstore.sqlite3_module import sqlite3
from eventstore.state_file import States, mend_states
from eventstore.writing import Writer
from runfold.commands import Claim, Queue
from runfold.errors import BadRequest, InvalidSetting, Unavailable
from runfold.events import RunQueued
from tests.contract.jetstream import shared_cluster
from tests.terminal import first_line, read, record, runfold, started
from tests.working import PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("text", "servers", "name"),
    [
        ("nats://a", ("nats://a:4222",), "runfold"),
        ("nats://a:1,b/logs", ("nats://a:1", "nats://b:4222"), "logs"),
        ("tls://u:p@a,b:2/x_y-1", ("tls://u:p@a:4222", "tls://u:p@b:2"), "x_y-1"),
        ("nats://[::1],[::2]:9/", ("nats://[::1]:4222", "nats://[::2]:9"), "runfold"),
    ],
)
def test_an_address_names_servers_and_a_log(text: str, servers: tuple[str, ...], name: str) -> None:
    assert parse_address(text) == Address(servers=servers, name=name)


@pytest.mark.parametrize("text", ["", "a:4222", "http://a", "nats://", "nats://a,,b", "nats://a/b.c", "nats://a/b/c"])
def test_what_is_no_address_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_address(text)

    assert refused.value.hint


def test_a_password_is_never_shown() -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_address("nats://u:hunter2@,b")

    assert "hunter2" not in str(refused.value)
    assert without_password("nats://u:hunter2@a,b/c") == "nats://u:***@a,b/c"


def test_any_name_of_a_run_is_a_subject_of_its_own() -> None:
    names = ["r_a", "$runfold", "a.b", "a.*", ">", "-", "ü😀", "a b", "A" * 512, "-a", "_", "\n"]

    subjects = [subject_of("log", name) for name in names]

    assert len(set(subjects)) == len(names)
    for subject in subjects:
        assert subject.count(".") == 1
        assert not set(subject) & set(" *>\r\n\t")


@pytest.fixture
def url() -> str:
    """A log of its own on the cluster of three."""
    return shared_cluster().url(f"t{uuid.uuid4().hex}")


@pytest.mark.slow
async def test_of_appends_published_together_only_the_refused_one_is_not_granted(url: str) -> None:
    cluster = await connect(parse_address(url))
    try:
        publisher = Publisher(cluster)
        first = await publisher.publish([_plan("r_a", 0, 2), _plan("r_b", 0, 1)])
        second = await publisher.publish([_plan("r_a", 2, 1), _plan("r_b", 1, 3), _plan("r_c", 0, 1)])
        kept = [await cluster.jetstream.get_msg(cluster.name, seq) for seq in sorted({*first, *second} - {0})]

        assert first == [2, 3]
        assert second[1] == 0
        assert sorted((second[0], second[2])) == [4, 5]
        assert [str(message.subject).rpartition(".")[2] for message in kept].count("r_b") == 1
    finally:
        await cluster.client.close()


@pytest.mark.slow
async def test_more_events_than_the_servers_take_at_once_are_published_in_parts(url: str) -> None:
    cluster = await connect(parse_address(url))
    try:
        plans = [_plan(f"r_{number}", 0, BATCH_EVENTS_MAX // 2) for number in range(3)]

        granted = await Publisher(cluster).publish(plans)

        assert sorted(granted) == [500, 1000, 1500]
    finally:
        await cluster.client.close()


@pytest.mark.slow
async def test_a_reader_that_is_cancelled_ends_wherever_the_servers_answer_was(tmp_path: Path, url: str) -> None:
    log = await JetStreamLog.connect(parse_address(url), tmp_path)

    async def read_on() -> None:
        while True:
            await log.bounds()

    try:
        for steps in range(60):
            reader = asyncio.create_task(read_on())
            for _ in range(steps):
                await asyncio.sleep(0)
            reader.cancel()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.wait({reader})
            assert reader.cancelled()
    finally:
        await log.close()


def _plan(stream: str, expected: int, count: int) -> Planned:
    return Planned(stream, expected, tuple(b"event %d" % number for number in range(count)))


@pytest.mark.slow
def test_what_one_machine_records_another_shows_and_proves(tmp_path: Path, url: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    recorded = runfold(one, "--log", url, "run", "--", sys.executable, "-c", "print('hello'); raise SystemExit(3)")

    (run,) = read(two, "--log", url, "ps")["items"]
    # The folder knows whose mirror it is: no need to say it again.
    status = read(two, "status", run["id"])
    proof = runfold(two, "verify")

    assert recorded.returncode == 3
    assert (status["status"], status["reason_code"]) == ("failed", "EXIT_NONZERO")
    assert read(one, "status", run["id"]) == status
    assert proof.returncode == 0, proof.stdout + proof.stderr


@pytest.mark.slow
async def test_a_state_file_of_a_run_that_another_machine_went_on_with_is_no_fault(tmp_path: Path, url: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    logs = [await JetStreamLog.connect(parse_address(url), data) for data in (one, two)]
    try:
        here, there = [Ledger(log, data=data) for log, data in zip(logs, (one, two), strict=True)]
        for run_id, ledger in (("r_here", here), ("r_there", there), ("r_later", here)):
            await ledger.execute(run_id, Queue(queued=RunQueued(driver="queue")), actor="user:a", tenant="default")
            mend_states(one)
            mend_states(two)
        (one / "runs/r_later/state.json").unlink()
        await there.execute("r_here", Claim(worker="two:1"), actor="worker:two:1", tenant="default")
        await logs[0].bounds()

        sound = _state_faults(one)
        held = one / "runs/r_here/state.json"
        held.write_text(held.read_text().replace('"QUEUED"', '"OTHER"'))
        altered = _state_faults(one)

        assert sound == []
        assert [fault.run_id for fault in altered] == ["r_here"]
    finally:
        for log in logs:
            await log.close()


def _state_faults(data: Path) -> list[Fault]:
    with closing(open_reader(data)) as connection:
        return list(States(connection, data).faults())


@pytest.mark.slow
def test_a_server_takes_runs_in_and_a_worker_on_another_machine_drives_them(tmp_path: Path, url: str) -> None:
    (tmp_path / "runfold.toml").write_text("[workflow.w]\ncommand = ['sh', '-c', 'echo driven']\n")
    one, two = tmp_path / "one", tmp_path / "two"
    serving = started(one, "--log", url, "up", "--port", "0", "--workers", "0", cwd=tmp_path)
    driving = started(two, "--log", url, "worker", cwd=tmp_path)
    with serving as server, driving:
        first_line(server)
        queued = runfold(one, "run", "--workflow", "w", "--detach", cwd=tmp_path)
        assert queued.returncode == 0, queued.stderr

        waited = runfold(one, "wait", queued.stdout.strip())

        assert waited.returncode == 0, waited.stderr
        types = [event["type"] for event in read(one, "events", queued.stdout.strip())["items"]]
        assert types.count("run_claimed") == types.count("run_completed") == 1
    assert "driven" in (two / "runs" / queued.stdout.strip() / "output.log").read_text()


@pytest.mark.slow
def test_doctor_says_who_keeps_the_log_and_what_they_lack(tmp_path: Path, url: str) -> None:
    shown = url.replace("nats://", "nats://u:hunter2@")
    monitors = [f"http://127.0.0.1:{node.monitor_port}" for node in shared_cluster().nodes]
    asked = [word for monitor in monitors for word in ("--monitor", monitor)]

    healthy = runfold(tmp_path, "--log", shown, "doctor", *asked)
    unknown = runfold(tmp_path, "--log", shown, "doctor", "--monitor", "http://127.0.0.1:1")

    assert healthy.returncode == 0, healthy.stdout
    assert "3 copies of the log" in healthy.stdout
    assert healthy.stdout.count("acknowledges what is on its disk") == 3
    assert unknown.returncode == 1
    assert "http://127.0.0.1:1 does not say how it keeps the log" in unknown.stdout
    assert "hunter2" not in healthy.stdout + healthy.stderr + unknown.stdout


def test_doctor_names_a_server_that_acknowledges_what_is_not_on_its_disk(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, size=1, sync="2m")
    try:
        (found,) = _durability([f"http://127.0.0.1:{cluster.nodes[0].monitor_port}"])
    finally:
        cluster.stop()

    assert found.level == "problem"
    assert "sync_interval: always" in found.text


@pytest.mark.slow
def test_a_mirror_is_not_written_by_itself(tmp_path: Path, url: str) -> None:
    assert runfold(tmp_path, "--log", url, "ingest").returncode == 0

    refused = runfold(tmp_path, "redact", "r_a")

    assert refused.returncode != 0
    with pytest.raises(BadRequest, match="mirrors the replicated log"):
        Writer(tmp_path, lambda: 0)


@pytest.mark.slow
def test_a_mirror_is_compared_with_its_stream_and_with_the_second_copy_event_by_event(tmp_path: Path, url: str) -> None:
    data, store = tmp_path / "data", f"file://{tmp_path / 'store'}"
    assert runfold(data, "--log", url, "run", "--quiet", "--", "true", RUNFOLD_BLOBS=store).returncode == 0
    assert Keeper(data, store, writer="one").step() is not None
    sound = runfold(data, "verify")
    connection = sqlite3.connect(data / "log.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_stay")
    connection.execute("UPDATE events SET actor = 'user:other' WHERE position = 2")
    connection.close()

    from_stream = runfold(data, "verify", "--only", "stream")
    from_copy = runfold(data, "verify", "--only", "copy")

    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "1 segments of the copy" in sound.stdout
    assert all(f"messages of the stream at n{number}" in sound.stdout for number in (1, 2, 3))
    for found, where in ((from_stream, "in the stream"), (from_copy, "in segment 1 of the second copy")):
        assert found.returncode == 1
        assert found.stdout.count("event ") == 1
        assert "event 2, version 2 of" in found.stdout
        assert where in found.stdout
        assert "its actor is another" in found.stdout


@pytest.mark.slow
def test_a_folder_with_a_log_of_its_own_is_no_mirror(tmp_path: Path, url: str) -> None:
    record(tmp_path)

    refused = runfold(tmp_path, "--log", url, "ps")

    assert refused.returncode == 1, refused.stderr
    assert "give this server a folder of its own" in refused.stderr


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = parse_address(f"nats://u:hunter2@127.0.0.1:{free.getsockname()[1]}/log")
        # The port is nobody else's meanwhile, and nobody listens there.
        with pytest.raises(Unavailable, match=r"no log at 127\.0\.0\.1") as refused:
            asyncio.run(JetStreamLog.connect(address, tmp_path, patience_seconds=0.5))
    assert "hunter2" not in refused.value.message

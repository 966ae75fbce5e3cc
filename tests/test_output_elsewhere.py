"""What a command wrote on one machine is shown by every other: while it runs as far as told, and whole at its end."""

import hashlib
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from eventstore.mirrored import Mirrored, note_mirrored
from eventstore.objects.object_store import open_store
from eventstore.objects.shared_outputs import Output, bring_ended, bring_outputs, share_new, share_output
from eventstore.sqlite import SqliteLog
from runfold.events import SubprocessOutput, TurnCompleted, TurnStarted, encode_data
from tests.contract.events import new_event
from tests.contract.jetstream import shared_cluster
from tests.served import bearer
from tests.terminal import first_line, read, runfold, started

BIG = 300_000
WORKFLOW = f"""
[workflow.w]
command = ["sh", "-c", "echo first; while [ ! -e go ]; do sleep 0.05; done; yes 0123456789 | head -c {BIG}; echo last"]
"""
WITHIN_SECONDS = 60


class Machines:
    """A server on one machine and a worker on another, which share a log and a store."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.one, self.two = folder / "one", folder / "two"

    def get(self, path: str, **headers: str) -> bytes:
        token = (self.one / "token").read_text().strip()
        request = urllib.request.Request(self.url + path, headers={**bearer(token), **headers})
        with urllib.request.urlopen(request, timeout=WITHIN_SECONDS) as answer:
            return bytes(answer.read())


@pytest.fixture
def machines(tmp_path: Path) -> Generator[Machines]:
    (tmp_path / "runfold.toml").write_text(WORKFLOW)
    log, store = shared_cluster().url(f"t{uuid.uuid4().hex}"), f"file://{tmp_path / 'store'}"
    with ExitStack() as stack:
        up = ("up", "--port", "0", "--workers", "0", "--no-browser")
        server = stack.enter_context(started(tmp_path / "one", "--log", log, *up, cwd=tmp_path, RUNFOLD_BLOBS=store))
        stack.enter_context(started(tmp_path / "two", "--log", log, "worker", cwd=tmp_path, RUNFOLD_BLOBS=store))
        yield Machines(tmp_path, first_line(server).partition("/login")[0])


@pytest.mark.slow
def test_what_a_command_writes_on_one_machine_is_shown_by_another_while_it_runs_and_after(machines: Machines) -> None:
    queued = runfold(machines.one, "run", "--workflow", "w", "--detach", cwd=machines.folder)
    run_id = queued.stdout.strip()
    live, ends = b"", time.monotonic() + WITHIN_SECONDS
    while b"first" not in live and time.monotonic() < ends:
        # Nothing was told of it yet: that is a 404.
        with suppress(urllib.error.HTTPError):
            live = machines.get(f"/api/runs/{run_id}/output")
    status = read(machines.one, "status", run_id)["status"]

    (machines.folder / "go").touch()
    waited = runfold(machines.one, "wait", run_id)

    assert (live, status) == (b"first\n", "running")
    assert waited.returncode == 0, waited.stderr
    written = (machines.two / "runs" / run_id / "output.log").read_bytes()
    assert len(written) == len("first\nlast\n") + BIG
    assert machines.get(f"/api/runs/{run_id}/output") == written
    assert machines.get(f"/api/runs/{run_id}/output", Range="bytes=2-9") == written[2:10]
    assert runfold(machines.one, "logs", run_id).stdout.encode() == written
    file, state = machines.one / "runs" / run_id / "state.json", ""
    ends = time.monotonic() + WITHIN_SECONDS
    while state != "completed" and time.monotonic() < ends:
        state = json.loads(file.read_bytes())["run_status"]
    assert state == "completed"
    proof = runfold(machines.one, "verify")
    assert proof.returncode == 0, proof.stdout + proof.stderr


class Folder:
    """A mirror of one run's log, and the store that its machines share."""

    def __init__(self, folder: Path) -> None:
        self.data, self.path = folder / "data", folder / "data" / "runs" / "r_a" / "output.log"
        self.store = open_store(f"file://{folder / 'store'}")
        self.url = f"file://{folder / 'store'}"

    async def record(self, *turns: bytes, open_turn: tuple[tuple[int, str], ...] = ()) -> None:
        log = await SqliteLog.open(self.data)
        last = offset = 0
        for number, output in enumerate(turns, 1):
            digest = hashlib.sha256(output).hexdigest()
            ended = TurnCompleted(turn=number, output_bytes=len(output), output_sha256=digest, output_offset=offset)
            event = new_event(encode_data(ended), type_name="turn_completed")
            last, offset = (await log.append("r_a", [event], expected=last)).last, offset + len(output)
        if open_turn:
            events = [new_event(encode_data(TurnStarted(turn=len(turns) + 1)), type_name="turn_started")]
            for at, text in open_turn:
                told = SubprocessOutput(text=text, offset=at)
                events.append(new_event(encode_data(told), type_name="subprocess_output"))
            await log.append("r_a", events, expected=last)
        await log.close()
        note_mirrored(self.data, Mirrored(address="nats://a", log_id="l", blobs=self.url))

    def put(self, content: bytes, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "part").write_bytes(content)
        output = Output(0, len(content), hashlib.sha256(content).hexdigest())
        assert share_output(self.store, folder / "part", output)


async def test_turns_of_several_machines_make_one_file_and_what_is_open_stands_behind(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await folder.record(b"one\n", b"two\n", open_turn=((8, "three"), (20, "later")))
    for content in (b"one\n", b"two\n"):
        folder.put(content, tmp_path / "other")

    bring_outputs(folder.data, "r_a")

    assert folder.path.read_bytes() == b"one\ntwo\nthree       later"


async def test_what_a_lost_turn_left_in_the_file_gives_way_to_what_ended(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await folder.record(b"one\n", b"two\n")
    for content in (b"one\n", b"two\n"):
        folder.put(content, tmp_path / "other")
    folder.path.parent.mkdir(parents=True)
    folder.path.write_bytes(b"one\nhalf of a turn")

    bring_ended(folder.data, "r_a")

    assert folder.path.read_bytes().startswith(b"one\ntwo\n")


async def test_what_the_store_could_not_take_is_shared_later(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await folder.record(b"one\n")
    folder.path.parent.mkdir(parents=True)
    folder.path.write_bytes(b"one\n")
    digest = hashlib.sha256(b"one\n").hexdigest()
    assert not folder.store.has(f"blobs/{digest[:2]}/{digest}")

    share_new(folder.data)

    assert folder.store.get(f"blobs/{digest[:2]}/{digest}") == b"one\n"


async def test_an_output_that_is_damaged_in_the_store_is_not_taken_for_the_turns(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await folder.record(b"one\n")
    folder.put(b"one\n", tmp_path / "other")
    digest = hashlib.sha256(b"one\n").hexdigest()
    folder.store.replace(f"blobs/{digest[:2]}/{digest}", b"two\n")

    bring_ended(folder.data, "r_a")

    assert not folder.path.exists() or folder.path.read_bytes() != b"two\n"

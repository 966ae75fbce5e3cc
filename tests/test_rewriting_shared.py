"""What is redacted, cleaned or trimmed in a log of many machines is so on all of them, also on one that comes later."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from cli.renewing import keep_views_clean
from eventstore.failpoints import NAME as FAILPOINT
from eventstore.jetstream.cluster import connect
from eventstore.jetstream.comparing import compare_stream
from eventstore.jetstream.messages import decode, encode
from eventstore.jetstream.moving import move_to_folder
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.publishing import Publisher
from eventstore.jetstream.scanning import messages_after
from eventstore.keeping.cleaning import EVER_US, candidates
from eventstore.log_file import open_reader
from eventstore.objects import blobs
from eventstore.objects.object_store import open_store
from eventstore.proof.faults import Fault
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.remains import holds_remains
from projections.engine.views import Views
from projections.service import ViewService
from runfold.envelope import NewEvent
from runfold.errors import Conflict
from runfold.events import ArtifactStored, RunQueued, encode_data
from tests.contract.events import SECRET, all_events, new_event, run
from tests.contract.jetstream import shared_cluster
from tests.machines import Machines
from tests.terminal import ROOT, environment, runfold

WITHIN_SECONDS = 60
pytestmark = pytest.mark.slow


class Inspected(Machines):
    """Machines that share a store, and what each of them holds."""

    def rows(self, name: str) -> list[Any]:
        with closing(open_reader(self.folder / name)) as connection:
            events = connection.execute("SELECT * FROM events ORDER BY position").fetchall()
            heads = connection.execute("SELECT * FROM heads ORDER BY run_id").fetchall()
            return [events, heads, connection.execute("SELECT trimmed_to, position FROM head").fetchone()]

    def faults(self, name: str) -> list[str]:
        with closing(open_reader(self.folder / name)) as connection:
            return [fault.message for fault in Proof(connection).faults()]

    async def compared(self, name: str) -> Fault | None:
        with closing(open_reader(self.folder / name)) as connection:
            counts, found = await compare_stream(connection, self.address)
            assert sorted(counts) == ["n1", "n2", "n3"]
            return found[0] if found else None

    def runs(self, name: str) -> list[Any]:
        views = Views.open(self.folder / name)
        try:
            views.refresh()
            return views.connection.execute("SELECT run_id, status FROM runs ORDER BY run_id").fetchall()
        finally:
            views.close()

    async def in_stream(self) -> bytes:
        """Every byte that the servers give of the log, and of what stands beside it."""
        cluster = await connect(self.address)
        try:
            names = (cluster.name, f"{cluster.name}-rewritten")
            return b"".join([each.data for name in names async for each in messages_after(cluster, name, 0)])
        finally:
            await cluster.client.close()


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncGenerator[Inspected]:
    async with Inspected(shared_cluster(), tmp_path, shares=True) as made:
        yield made


def telling(sha256: str = "") -> list[NewEvent]:
    """A run that says the secret in its very first event, in one that follows, and in a blob."""
    queued = RunQueued(title=f"t {SECRET}", driver="reported")
    events = [new_event(encode_data(queued), type_name="run_queued"), *run()[1:]]
    if sha256:
        stored = ArtifactStored(artifact_id="a", name="n", sha256=sha256, media_type="text/plain", size_bytes=1)
        events.insert(2, new_event(encode_data(stored), type_name="artifact_stored"))
    return events


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


async def test_a_redacted_text_leaves_every_machine_the_stream_and_the_store(machines: Inspected) -> None:
    one, two = await machines.open("one"), await machines.open("two")
    sha256 = blobs.put(machines.folder / "one", f"file: {SECRET}".encode())
    assert blobs.get(machines.folder / "two", sha256)
    appended = await one.append("r_a", telling(sha256), expected=0)
    elsewhere = write(machines.folder / "one" / "runs" / "r_a" / "output.log", f"before {SECRET} after\n")
    copied = write(machines.folder / "two" / "runs" / "r_a" / "output.log", f"before {SECRET} after\n")

    await two.redact("r_a", texts=[SECRET], reason="leaked", actor="user:a")
    found = await all_events(one)
    three = await machines.open("three")

    assert await all_events(three) == await all_events(two) == found
    assert [(each.position, each.hash) for each in found[:6]] == [(it.position, it.hash) for it in appended.events]
    assert machines.rows("one") == machines.rows("two") == machines.rows("three")
    assert [machines.faults(name) for name in ("one", "two", "three")] == [[], [], []]
    assert SECRET not in str(found)
    assert SECRET.encode() not in await machines.in_stream()
    masked = f"before {'*' * len(SECRET)} after\n"
    assert (elsewhere.read_text(), copied.read_text()) == (masked, masked)
    for name in ("one", "two"):
        assert not (machines.folder / name / "blobs" / sha256[:2] / sha256).exists()
    assert not open_store(machines.store).has(f"blobs/{sha256[:2]}/{sha256}")
    assert (await one.bounds()).first == 1
    # A retry of what was sent is known all the same.
    assert (await three.append("r_b", run(), expected=0)).first == found[-1].position + 1


async def test_a_text_that_is_redacted_elsewhere_leaves_the_file_of_the_views(machines: Inspected) -> None:
    one, two = await machines.open("one"), await machines.open("two")
    await one.append("r_a", telling(), expected=0)
    folder = machines.folder / "two"
    views = await ViewService.open(folder)
    try:
        await two.bounds()
        shown = (await views.query(_titles))[0]
        before = _holds(folder.glob("views.*"), SECRET)
        await one.redact("r_a", texts=[SECRET], reason="leaked", actor="user:a")
        await two.bounds()
        left = (await views.query(_titles))[0]
        keeping = asyncio.create_task(keep_views_clean(views, folder, look_seconds=0.1))
        async with asyncio.timeout(WITHIN_SECONDS):
            while (await views.query(holds_remains))[0] or _holds(folder.glob("views.*"), SECRET):
                await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.wait([keeping])

        assert (shown, left, before) == ([f"t {SECRET}"], ["t [redacted]"], True)
        assert (await views.query(_titles))[0] == left
    finally:
        await views.close()


def _titles(connection: sqlite3.Connection) -> list[str]:
    return [title for (title,) in connection.execute("SELECT title FROM runs").fetchall()]


def _holds(paths: Iterable[Path], text: str) -> bool:
    return any(text.encode() in _content(path) for path in paths)


def _content(path: Path) -> bytes:
    """Of a file that whoever folds the views anew may just take away."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


async def test_a_text_is_redacted_after_another_of_the_same_event(machines: Inspected) -> None:
    one, two = await machines.open("one"), await machines.open("two")
    await one.append("r_a", telling(), expected=0)

    await one.redact("r_a", texts=[SECRET], actor="user:a")
    await two.redact("r_a", texts=["I use"], actor="user:a")

    three = await machines.open("three")
    events = await all_events(three)
    assert events == await all_events(one)
    assert events[2].data == b'{"text":"[redacted] [redacted] here"}'
    assert [machines.faults(name) for name in ("one", "two", "three")] == [[], [], []]
    assert b"I use" not in await machines.in_stream()


async def test_a_trimmed_run_is_gone_on_every_machine_and_its_id_is_never_given_again(machines: Inspected) -> None:
    one, two = await machines.open("one"), await machines.open("two")
    await one.append("r_before", run(), expected=0)
    ended = await one.append("r_gone", run(), expected=0)
    await one.append("r_open", run(ended=False), expected=0)
    await all_events(two, stream="r_open")
    machines.runs("two")
    at_head = (await one.bounds()).last

    assert await two.trim(["r_gone", "r_open"], actor="user:a") == ("r_gone",)

    # Who followed at the head goes on, and hears of it.
    assert [event.type for event in await all_events(one, after=at_head)] == ["run_archived"]
    three = await machines.open("three")
    await three.bounds()
    assert machines.rows("one") == machines.rows("two") == machines.rows("three")
    assert [machines.faults(name) for name in ("one", "two", "three")] == [[], [], []]
    assert await machines.compared("three") is None
    back = machines.folder / "back"
    await move_to_folder(machines.address, back)
    own = await SqliteLog.open(back)
    assert [event.type for event in await all_events(own, after=at_head)] == ["run_archived"]
    await own.close()
    shown = [("r_before", "completed"), ("r_gone", "completed"), ("r_open", "running")]
    assert machines.runs("one") == machines.runs("two") == machines.runs("three") == shown
    for expected in (0, ended.last):
        with pytest.raises(Conflict):
            await three.append("r_gone", [new_event()], expected=expected)
    # Also a machine that has never heard of the run, nor of its end, is refused by the stream itself.
    cluster = await connect(machines.address)
    try:
        held = await cluster.jetstream.get_last_msg(cluster.name, f"{cluster.name}.r_open", direct=False)
        message = decode(held.data or b"", 0)
        for expected in (0, ended.last):
            plan = Planned("r_gone", expected, (encode(message),))
            assert await Publisher(cluster).publish([plan]) == [0]
    finally:
        await cluster.client.close()


async def test_the_first_runs_of_a_log_are_trimmed_and_it_begins_where_it_is_whole(machines: Inspected) -> None:
    one = await machines.open("one")
    await one.append("r_gone", run(), expected=0)
    await one.append("r_stays", telling(), expected=0)
    await one.trim(["r_gone"], actor="user:a")
    await one.redact("r_stays", texts=[SECRET], actor="user:a")

    two = await machines.open("two")

    assert await all_events(two, stream="r_stays") == await all_events(one, stream="r_stays")
    assert machines.rows("one") == machines.rows("two")
    assert [machines.faults(name) for name in ("one", "two")] == [[], []]


async def test_a_run_is_cleaned_on_every_machine(machines: Inspected) -> None:
    one, two = await machines.open("one"), await machines.open("two")
    await one.append("r_a", run(), expected=0)
    file = write(machines.folder / "one" / "runs" / "r_a" / "output.log", "words")
    await two.bounds()
    found = candidates(machines.folder / "two", before_us=EVER_US, whole=False)

    done = await two.clean(found, whole=False, actor="user:a")

    assert done.runs == ("r_a",)
    events = await all_events(one)
    three = await machines.open("three")
    assert await all_events(three) == events == await all_events(two)
    assert [each.type for each in events if each.data is None] == ["message"]
    assert [machines.faults(name) for name in ("one", "two", "three")] == [[], [], []]
    assert not file.exists()
    assert SECRET.encode() not in await machines.in_stream()
    assert machines.runs("three") == [("r_a", "completed")]


@pytest.mark.parametrize("place", ["redact.put", "mirror.before_commit", "mirror.committed", "clean.put", "trim.put"])
async def test_killed_at_any_place_a_rewriting_is_whole_or_was_never_begun(machines: Inspected, place: str) -> None:
    one = await machines.open("one")
    await one.append("r_a", telling(), expected=0)
    write(machines.folder / "two" / "runs" / "r_a" / "output.log", f"before {SECRET} after\n")
    redact = ("redact", "r_a", "--text", SECRET)
    clean = ("clean", "--older-than", "0s")
    wish = {"clean.put": clean, "trim.put": (*clean, "--trim")}.get(place, redact)
    assert runfold(machines.folder / "two", "--log", machines.url, "ps").returncode == 0

    killed = subprocess.run(
        [sys.executable, "-m", "runfold", *wish],
        env=environment(machines.folder / "two", PYTHONPATH=str(ROOT), **{FAILPOINT: place}),
        cwd=ROOT,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    between = await all_events(one)
    again = runfold(machines.folder / "two", *wish)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert again.returncode == 0, again.stderr
    if place in ("mirror.before_commit", "mirror.committed"):
        # It was said in the log, so it is done everywhere, whoever died.
        assert SECRET not in str(between)
    await one.bounds()
    three = await machines.open("three")
    await three.bounds()
    assert machines.rows("one") == machines.rows("two") == machines.rows("three")
    assert [machines.faults(name) for name in ("one", "two", "three")] == [[], [], []]
    # A run that was cleaned keeps its title, and so does the summary of one that was trimmed.
    assert wish != redact or SECRET.encode() not in await machines.in_stream()
    output = machines.folder / "two" / "runs" / "r_a" / "output.log"
    assert not output.exists() or SECRET not in output.read_text()
    assert not (machines.folder / "two" / "pending").exists()


async def test_a_machine_that_was_away_while_a_run_was_trimmed_is_sound_when_it_is_asked(machines: Inspected) -> None:
    one = await machines.open("one")
    await one.append("r_gone", run(), expected=0)
    assert runfold(machines.folder / "two", "--log", machines.url, "ps").returncode == 0
    await one.trim(["r_gone"], actor="user:a")

    proof = runfold(machines.folder / "two", "verify", "--only", "stream")

    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert machines.rows("two") == machines.rows("one")

"""An append that comes alone is stored by the event loop itself, and waits for nobody there."""

import asyncio
import fcntl
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from eventstore.contract import Appended
from eventstore.jetstream import mirror as mirror_module
from eventstore.jetstream import mirror_thread
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.cluster import stream_state
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.mirror import Mirror
from eventstore.jetstream.mirror_thread import IN_A_ROW_MAX, MirrorThread
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.mirrored import Mirrored
from eventstore.sqlite import connected
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import LOCK_FILE
from runfold.errors import Conflict, LogFailed, RunfoldError
from tests.contract.events import START_US, all_events, new_event, numbered
from tests.contract.jetstream import shared_cluster
from tests.tampering import damage_table
from tests.working import PATIENCE_SECONDS


@pytest.fixture
async def log(tmp_path: Path) -> AsyncGenerator[JetStreamLog]:
    """One that was appended to once: the next append comes alone as that one did."""
    made = await JetStreamLog.connect(parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}")), tmp_path)
    await made.append("r_a", [new_event()], expected=0)
    yield made
    await made.close()


@pytest.mark.slow
async def test_an_append_is_in_the_mirrors_file_when_it_is_answered(tmp_path: Path, log: JetStreamLog) -> None:
    reader = open_reader(tmp_path)
    answered, stored = list[int](), list[int]()
    last = 1
    for count in (1, 3, 1, 20, 1):
        done = asyncio.Event()

        def look(outcome: Appended | RunfoldError, done: asyncio.Event = done) -> None:
            assert isinstance(outcome, Appended)
            answered.append(outcome.last)
            stored.append(reader.execute("SELECT max(position) FROM events").fetchone()[0])
            done.set()

        await log.submit("r_a", numbered(last, count), expected=last, done=look)
        await done.wait()
        last = answered[-1]
    reader.close()

    assert answered == stored == [2, 5, 6, 26, 27]


@contextmanager
def locked(data: Path) -> Generator[None]:
    """As another process of the machine that fills the mirror."""
    descriptor = os.open(data / LOCK_FILE, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


@contextmanager
def written_to(data: Path) -> Generator[None]:
    """As a tool that knows nothing of that lock."""
    connection = sqlite3.connect(data / LOG_FILE, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("held", [locked, written_to])
async def test_while_others_have_the_mirror_the_loop_goes_on_and_the_append_is_answered_when_they_are_done(
    tmp_path: Path, log: JetStreamLog, held: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with held(tmp_path):
        appending = asyncio.create_task(log.append("r_a", [new_event()], expected=1))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await stream_state(log.cluster)).state.last_seq < 2:
                await asyncio.sleep(0)
        is_early = appending.done()

    appended = await appending

    assert not is_early
    assert (appended.last, appended.duplicate) == (2, False)
    assert await all_events(log, after=1) == list(appended.events)


@pytest.mark.slow
async def test_a_log_that_is_closed_first_answers_the_append_that_is_on_its_way(tmp_path: Path) -> None:
    address = parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}"))
    log = await JetStreamLog.connect(address, tmp_path)
    await log.append("r_a", [new_event()], expected=0)
    appending = asyncio.create_task(log.append("r_a", [new_event()], expected=1))
    await asyncio.sleep(0)

    await log.close()

    assert appending.done()
    assert (await appending).last == 2


@pytest.mark.slow
async def test_an_append_that_comes_alone_and_is_refused_or_known_is_answered_as_any_other(
    tmp_path: Path, log: JetStreamLog
) -> None:
    sent = [new_event()]
    first = await log.append("r_a", sent, expected=1)
    elsewhere = await JetStreamLog.connect(
        parse_address(shared_cluster().url(log.cluster.name)), tmp_path / "elsewhere"
    )
    try:
        theirs = await elsewhere.append("r_a", [new_event()], expected=2)
    finally:
        await elsewhere.close()

    again = await log.append("r_a", sent, expected=1)
    with pytest.raises(Conflict) as refused:
        await log.append("r_a", [new_event()], expected=2)

    assert (again.first, again.last, again.duplicate) == (first.first, first.last, True)
    assert refused.value.actual == theirs.last
    assert (await log.append("r_a", [new_event()], expected=3)).last == 4


@pytest.fixture
async def thread(tmp_path: Path) -> AsyncGenerator[MirrorThread]:
    """Of a mirror alone, whose stream is nowhere."""
    made: list[Mirror] = []

    def open_mirror() -> sqlite3.Connection:
        made.append(Mirror(tmp_path, lambda: START_US, Mirrored(address="nats://a", log_id=str(uuid.uuid4()))))
        return made[0].connection

    connection = await connected(open_mirror)
    thread = MirrorThread(connection, made[0])
    yield thread
    await thread.do(made[0].close)
    await connection.close()


@pytest.mark.slow
async def test_the_journal_of_a_mirror_that_is_filled_by_the_loop_stays_bounded(
    tmp_path: Path, thread: MirrorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "CHECKPOINT_PAGES", 100)
    # A busy machine may let this process wait.
    monkeypatch.setattr(mirror_thread, "SLOW_SECONDS", 60.0)
    stored = by_the_loop = 0
    for position in range(1, 4 * IN_A_ROW_MAX):
        row = (position, "r_a", position, uuid.uuid4().bytes, "note_added", 1, 0, position, "default", "user:a")
        rows = [(*row, None, None, None, "", b"h", b"{}", b"s")]

        taken = thread.take_at_once(rows, ())
        by_the_loop += taken is not None
        stored, _ = taken or await thread.take(rows, ())

    # Between two turns of the thread some 3,000 pages are added.
    assert stored == 4 * IN_A_ROW_MAX - 1
    assert by_the_loop > 3.8 * IN_A_ROW_MAX
    assert (tmp_path / f"{LOG_FILE}-wal").stat().st_size < 2 * IN_A_ROW_MAX * 5 * 4096


async def test_a_disk_that_keeps_the_loop_is_the_threads_to_wait_for(
    thread: MirrorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_thread, "SLOW_SECONDS", 0.0)
    # Until then nobody tries again; a busy machine must not come to it here.
    monkeypatch.setattr(mirror_thread, "SLOW_AGAIN_SECONDS", 600.0)
    taken = [thread.take_at_once((), ()) for _ in range(5)]

    assert [each is not None for each in taken] == [False, True, False, False, False]


async def test_while_the_thread_is_at_work_the_loop_leaves_the_mirror_to_it(thread: MirrorThread) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stand_still() -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(PATIENCE_SECONDS)

    working = asyncio.create_task(thread.do(stand_still))
    await begun.wait()
    # Also when nobody waits for it any more.
    working.cancel()
    await asyncio.wait({working})

    taken = [thread.take_at_once((), ()) for _ in range(5)]
    go_on.set()

    assert taken == [None] * 5


@pytest.mark.slow
async def test_a_mirror_that_cannot_be_looked_at_fails_the_log_and_leaves_nobody_waiting(
    tmp_path: Path, log: JetStreamLog
) -> None:
    damage_table(tmp_path / LOG_FILE, "heads")

    for stream in ("r_b", "r_c"):
        with pytest.raises(LogFailed, match="malformed"):
            await log.append(stream, [new_event()], expected=0)

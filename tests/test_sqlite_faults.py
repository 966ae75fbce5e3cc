"""A disk that is full or sick, a file that others hold, and writers that are killed: what was acknowledged is there."""

import asyncio
import itertools
import pickle
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.sqlite import SqliteLog, hop
from runfold.errors import LogFailed, RunfoldError, Unavailable
from tests.contract.events import all_events, new_event, numbered
from tests.sqlite_logs import filled, problems, stranger

ROOT = Path(__file__).parent.parent


def python(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


OPEN_WITH_LITTLE_ROOM = """
import asyncio, resource, signal, sys
from pathlib import Path
from eventstore.sqlite import SqliteLog
from runfold.errors import RunfoldError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    for limit in map(int, sys.argv[2:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            log = await SqliteLog.open(Path(sys.argv[1]) / str(limit))
            await log.close()
            print(limit, "opened")
        except RunfoldError as error:
            print(limit, type(error).__name__)
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_disk_that_is_full_at_any_point_of_making_a_log_leaves_a_folder_that_can_be_used(
    tmp_path: Path,
) -> None:
    limits = [0, 1, 512, 1024, 4096, 5000, *range(8192, 90_000, 4096)]

    ended = python(OPEN_WITH_LITTLE_ROOM, str(tmp_path), *map(str, limits))

    said = dict(line.split() for line in ended.stdout.splitlines())
    assert len(said) == len(limits), ended.stderr
    assert {"Unavailable", "opened"} == set(said.values())
    for limit in limits:
        await filled(tmp_path / str(limit))
        assert problems(tmp_path / str(limit)) == []


FILL = """
import asyncio, resource, signal, sys
from pathlib import Path
from eventstore.sqlite import SqliteLog
from runfold.errors import RunfoldError
from tests.contract.events import numbered
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    log = await SqliteLog.open(Path(sys.argv[1]))
    last = (await log.append("r_a", numbered(0, 1), expected=0)).last
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    try:
        while True:
            last = (await log.append("r_a", numbered(0, 100), expected=last)).last
            print(last, flush=True)
    except RunfoldError as error:
        print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        await log.append("r_b", numbered(0, 1), expected=0)
    except RunfoldError as error:
        print(type(error).__name__)
    print((await log.bounds()).last)
    await log.close()
asyncio.run(main())
"""


@pytest.mark.slow
async def test_t24_a_full_disk_stops_the_writes_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    ended = python(FILL, str(tmp_path))

    *acknowledged, failed, still_failed, readable = ended.stdout.split()
    assert (failed, still_failed) == ("LogFailed", "LogFailed"), ended.stderr
    assert readable == acknowledged[-1]
    assert problems(tmp_path) == []
    log = await SqliteLog.open(tmp_path)
    added = await log.append("r_a", [new_event()], expected=int(acknowledged[-1]))
    await log.close()
    assert added.version == int(acknowledged[-1]) + 1


async def test_a_begin_that_fails_for_another_reason_than_waiting_stops_the_writes(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    first = await log.append("r_a", [new_event()], expected=0)
    connection = log._writer.connection
    await hop(log._writes, lambda: connection.set_progress_handler(lambda: 1, 1))

    with pytest.raises(LogFailed, match="the log stopped writing: OperationalError"):
        await log.append("r_a", [new_event()], expected=first.last)
    await hop(log._writes, lambda: connection.set_progress_handler(None, 1))
    with pytest.raises(LogFailed, match="the log stopped writing: OperationalError"):
        await log.append("r_a", [new_event()], expected=first.last)

    assert await log.last("r_a") == first.events[0]
    await log.close()
    reopened = await SqliteLog.open(tmp_path)
    assert (await reopened.append("r_a", [new_event()], expected=first.last)).version == 2
    await reopened.close()


async def test_a_log_that_another_program_holds_is_unavailable_for_as_long_as_it_does(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await hop(log._writes, lambda: log._writer.connection.execute("PRAGMA busy_timeout = 1"))
    with closing(stranger(tmp_path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="held by another program"):
            await log.append("r_a", [new_event()], expected=0)
        connection.execute("ROLLBACK")

    added = await log.append("r_a", [new_event()], expected=0)

    await log.close()
    assert added.version == 1


# As a process that stands still while it writes the journal's index, see "WAL-Index File Format" of SQLite.
HOLD_INDEX = """
import fcntl, sys
with open(sys.argv[1], "r+b", buffering=0) as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 1, 120)
    before = index.read(12)
    index.seek(8)
    index.write(bytes(byte ^ 255 for byte in before[8:]))
    print("held", flush=True)
    sys.stdin.read()
    index.seek(8)
    index.write(before[8:])
"""


@pytest.mark.slow
async def test_a_log_whose_index_somebody_writes_without_an_end_is_unavailable_until_he_is_done(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    first = await log.append("r_a", [new_event()], expected=0)
    command = [sys.executable, "-c", HOLD_INDEX, str(tmp_path / "log.db-shm")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"held\n"
        asked = asyncio.create_task(log.last("r_a"))
        # SQLite itself tries again for ten seconds.
        with pytest.raises(Unavailable, match="locking protocol"):
            await log.append("r_a", [new_event()], expected=first.last)
        with pytest.raises(Unavailable, match="locking protocol"):
            await asked
        holding.communicate()

    added = await log.append("r_a", [new_event()], expected=first.last)

    await log.close()
    assert (added.version, problems(tmp_path)) == (2, [])


async def test_a_commit_that_fails_is_never_acknowledged_and_stops_the_writes(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    first = await log.append("r_a", [new_event()], expected=0)
    # A constraint that SQLite judges only when it commits.
    with closing(stranger(tmp_path)) as connection:
        connection.executescript(
            "CREATE TABLE parents (a INTEGER PRIMARY KEY);"
            "CREATE TABLE children (a REFERENCES parents DEFERRABLE INITIALLY DEFERRED);"
            "CREATE TRIGGER fails AFTER INSERT ON events BEGIN INSERT INTO children VALUES (NEW.position); END"
        )
    await hop(log._writes, lambda: log._writer.connection.execute("PRAGMA foreign_keys = ON"))

    outcomes = await asyncio.gather(
        *(log.append(f"r_{number}", [new_event()], expected=0) for number in range(5)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [LogFailed] * 5
    assert all("FOREIGN KEY" in str(outcome) for outcome in outcomes)
    assert await all_events(log) == list(first.events)
    with pytest.raises(RunfoldError, match="stopped writing"):
        await log.append("r_a", [new_event()], expected=first.last)
    await log.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from eventstore.sqlite import SqliteLog
from tests.contract.events import numbered
async def main():
    data, run_id, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    log = await SqliteLog.open(data)
    async def write(name):
        last = 0
        for number in range(count):
            answer = await log.append(name, numbered(number, 1 + number % 3), expected=last)
            last = answer.last
            print(name, *(event.id for event in answer.events), flush=True)
    await asyncio.gather(*(write(f"{run_id}_{number}") for number in range(4)))
    await log.close()
asyncio.run(main())
"""


def start_writer(data: Path, run_id: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(data), run_id, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def acknowledged_by(process: "subprocess.Popen[str]", lines: list[str]) -> set[tuple[str, str]]:
    # The last line may be cut off: what it says was not yet heard by anybody. Only `read` knows what iterating
    # over the pipe has buffered; `communicate` would begin in the middle of a line.
    assert process.stdout is not None
    with process.stdout:
        rest = process.stdout.read()
    process.wait(timeout=60)
    whole = [line for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith("\n")]
    return {(line.split()[0], identity) for line in whole for identity in line.split()[1:]}


async def stored_in(data: Path) -> list[tuple[str, str]]:
    log = await SqliteLog.open(data)
    stored = [(event.run_id, event.id) for event in await all_events(log)]
    await log.close()
    return stored


@pytest.mark.slow
async def test_t25_writers_that_are_killed_at_random_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(25)
    acknowledged = set[tuple[str, str]]()
    for number in range(5):
        writers = [start_writer(tmp_path, f"r_{number}_{name}", 100_000) for name in "ab"]
        heard: list[list[str]] = [[], []]
        for writer, lines in zip(writers, heard, strict=True):
            assert writer.stdout is not None
            lines += itertools.islice(writer.stdout, chance.randrange(1, 150))
        for writer in writers:
            writer.kill()
        for writer, lines in zip(writers, heard, strict=True):
            acknowledged |= acknowledged_by(writer, lines)

    stored = await stored_in(tmp_path)
    assert len(acknowledged) > 100
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))
    assert problems(tmp_path) == []


@pytest.mark.slow
async def test_several_processes_that_append_at_once_each_store_all_of_theirs(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, f"r_{name}", 100) for name in "abc"]

    acknowledged = [acknowledged_by(writer, []) for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert [len(mine) for mine in acknowledged] == [4 * 199] * 3
    stored = await stored_in(tmp_path)
    assert sorted(stored) == sorted(set[tuple[str, str]]().union(*acknowledged))
    assert problems(tmp_path) == []


KILLED_BEFORE_ITS_ANSWER = """
import asyncio, os, pickle, signal, sys
from pathlib import Path
from eventstore.sqlite import SqliteLog
async def main():
    log = await SqliteLog.open(Path(sys.argv[1]))
    commit = log._commit
    async def killed(requests):
        await commit(requests)
        os.kill(os.getpid(), signal.SIGKILL)
    log._commit = killed
    await log.append("r_a", pickle.load(sys.stdin.buffer), expected=0)
asyncio.run(main())
"""


@pytest.mark.slow
async def test_t27_a_writer_killed_between_the_commit_and_its_answer_is_answered_when_it_asks_again(
    tmp_path: Path,
) -> None:
    events = numbered(0, 3)
    command = [sys.executable, "-c", KILLED_BEFORE_ITS_ANSWER, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, input=pickle.dumps(events), capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr

    log = await SqliteLog.open(tmp_path)
    again = await log.append("r_a", events, expected=0)
    await log.close()

    assert again.duplicate
    assert [event.position for event in again.events] == [1, 2, 3]

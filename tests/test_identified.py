"""Events are found by their UUIDs, whether those follow time or chance, and many runs share what an append writes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from eventstore.contract import Appended
from eventstore.identified import Pair, known_pairs, rows_of
from eventstore.log_file import LOG_FILE
from eventstore.preparing import prepare
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import SCHEMA, Writer
from runfold.envelope import NewEvent
from runfold.errors import EventIdConflict
from runfold.ordered_ids import numbered_ids, ordered_id

RUNS = 64
PAGE_BYTES = 4096
FRAME_BYTES = PAGE_BYTES + 24  # A page in the journal, and what is said of it.
_CHANCE = Random(1)


def by_chance() -> str:
    return str(UUID(int=_CHANCE.getrandbits(128), version=4))


def derived() -> str:
    return numbered_ids(ordered_id(), 1)[0]


def event(identity: str, *, command: str | None = None, data: bytes = b"{}") -> NewEvent:
    return NewEvent(id=identity, type="x", data=data, at_us=1, tenant="default", actor="user:t", command=command)


def empty_log() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA.read_text())
    return connection


def test_whatever_is_asked_by_its_uuid_is_found_in_an_index_of_run_and_uuid() -> None:
    connection = empty_log()
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    names = [UUID(make()).bytes for make in (ordered_id, derived, by_chance)]

    known_pairs(connection, [("r_1", name) for name in names])
    rows_of(connection, "r_1", "id", names)
    rows_of(connection, "r_1", "command", names)

    connection.set_trace_callback(None)
    assert len(asked) == 6  # Each of both kinds.
    for query in asked:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}") if "events" in row[3]]
        column = "command" if "command IN" in query else "id"
        assert [("INDEX" in step, "run_id=?" in step, f"{column}=?" in step) for step in plan] == [(True, True, True)]


def test_an_id_is_known_in_its_own_run_alone(tmp_path: Path) -> None:
    names = [ordered_id(), derived(), by_chance()]
    pairs: list[Pair] = [("r_1", UUID(name).bytes) for name in names]
    writer = Writer(tmp_path, lambda: 1)

    (done,) = writer.append([prepare("r_1", [event(name) for name in names], 0)])

    assert isinstance(done, Appended)
    assert sorted(known_pairs(writer.connection, [*pairs, *(("r_2", id) for _, id in pairs)])) == sorted(pairs)
    writer.close()


@pytest.mark.parametrize("make", [ordered_id, derived, by_chance])
async def test_an_append_that_is_sent_again_is_known_by_ids_of_every_kind(
    tmp_path: Path, make: Callable[[], str]
) -> None:
    log = await SqliteLog.open(tmp_path)
    events = [event(name) for name in (make(), ordered_id(), by_chance())]
    first = await log.append("r_1", events, expected=0)

    again = await log.append("r_1", events, expected=0)
    elsewhere = await log.append("r_2", events, expected=0)

    assert (again.duplicate, again.first, again.last) == (True, first.first, first.last)
    assert not elsewhere.duplicate
    with pytest.raises(EventIdConflict):
        await log.append("r_1", [event(events[0].id, data=b'{"a":1}')], expected=first.last)
    assert [it.id for it in await log.find("r_1", ids=[it.id for it in reversed(events)])] == [it.id for it in events]
    await log.close()


async def test_the_events_of_commands_of_either_kind_are_found(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    commands = (ordered_id(), by_chance())
    await log.append("r_1", [event(ordered_id(), command=command) for command in (*commands, None)], expected=0)

    found = await log.find("r_1", commands=commands)

    assert [it.command for it in found] == list(commands)
    await log.close()


def pages_of_one_append(data: Path, make: Callable[[], str]) -> int:
    """How many pages go to the disk when each of many runs that have some events gets one more."""
    writer = Writer(data, lambda: 1)
    last = [0] * RUNS

    def append(count: int) -> None:
        requests = [prepare(f"r_{run}", _events(make, count), last[run]) for run in range(RUNS)]
        for run, outcome in enumerate(writer.append(requests)):
            assert isinstance(outcome, Appended)
            last[run] = outcome.last

    for _ in range(20):
        append(10)
    writer.scrub()
    append(1)
    pages = ((data / f"{LOG_FILE}-wal").stat().st_size - 32) // FRAME_BYTES
    writer.close()
    return pages


def _events(make: Callable[[], str], count: int) -> Sequence[NewEvent]:
    return [event(make()) for _ in range(count)]


def test_what_many_runs_append_at_once_shares_the_pages_of_ids_that_follow_time(tmp_path: Path) -> None:
    of_time = pages_of_one_append(tmp_path / "time", ordered_id)
    of_chance = pages_of_one_append(tmp_path / "chance", by_chance)

    # A run has a page of its own only in the index of ids that are drawn by chance.
    assert of_time < RUNS // 2
    assert RUNS < of_chance < RUNS + RUNS // 2

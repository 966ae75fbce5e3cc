"""Who shares a commit of the log with whom: all who are about to append, and whoever is alone waits for nobody."""

import asyncio
import itertools
from pathlib import Path

import pytest

from eventstore import gathering
from eventstore.gathering import ENOUGH_EVENTS
from eventstore.sqlite import SqliteLog
from tests.contract.events import new_event
from tests.working import PATIENCE_SECONDS

CALLERS = 64


async def counting(data: Path) -> SqliteLog:
    """A log whose clock counts its commits: each asks once, and all of its events have that time."""
    commits = itertools.count(1)
    return await SqliteLog.open(data, now_us=lambda: next(commits))


async def append_after(turns: int, log: SqliteLog, run_id: str) -> int:
    """Append after so many turns of the loop, as a request does that is read, begun and decided in turns of its own."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return (await log.append(run_id, [new_event()], expected=0)).events[0].recorded_at_us


async def test_who_shared_a_commit_and_comes_again_shares_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine must not cut it short here.
    monkeypatch.setattr(gathering, "QUIET_SECONDS", 60)
    monkeypatch.setattr(gathering, "GATHER_SECONDS_MAX", 60)
    log = await counting(tmp_path)

    async def twice(number: int) -> tuple[int, int]:
        return await append_after(0, log, f"r_{number}"), await append_after(number % 20, log, f"r_again_{number}")

    commits = await asyncio.gather(*map(twice, range(CALLERS)))
    await log.close()

    assert set(commits) == {(1, 2)}


async def test_for_many_events_nobody_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would be for ever.
    monkeypatch.setattr(gathering, "QUIET_SECONDS", 10**6)
    monkeypatch.setattr(gathering, "GATHER_SECONDS_MAX", 10**6)
    log = await counting(tmp_path)
    await asyncio.gather(*(append_after(0, log, f"r_{number}") for number in range(CALLERS)))

    async with asyncio.timeout(PATIENCE_SECONDS):
        large = await log.append("r_large", [new_event() for _ in range(ENOUGH_EVENTS)], expected=0)
    await log.close()

    assert large.events[0].recorded_at_us == 2


async def test_who_does_not_come_again_is_not_waited_for(tmp_path: Path) -> None:
    log = await counting(tmp_path)
    await asyncio.gather(*(append_after(0, log, f"r_{number}") for number in range(CALLERS)))

    async with asyncio.timeout(PATIENCE_SECONDS):
        commits = [await append_after(0, log, f"r_alone_{number}") for number in range(2)]
    await log.close()

    assert commits == [2, 3]


async def test_who_appends_alone_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would be for ever.
    monkeypatch.setattr(gathering, "QUIET_SECONDS", 10**6)
    monkeypatch.setattr(gathering, "GATHER_SECONDS_MAX", 10**6)
    log = await counting(tmp_path)

    async with asyncio.timeout(PATIENCE_SECONDS):
        commits = [await append_after(0, log, f"r_{number}") for number in range(3)]
    await log.close()

    assert commits == [1, 2, 3]


async def test_a_log_that_is_closed_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "QUIET_SECONDS", 10**6)
    monkeypatch.setattr(gathering, "GATHER_SECONDS_MAX", 10**6)
    log = await counting(tmp_path)
    await asyncio.gather(*(append_after(0, log, f"r_{number}") for number in range(2)))

    appending = asyncio.create_task(append_after(0, log, "r_last"))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await log.close()
        last = await appending

    assert last == 2

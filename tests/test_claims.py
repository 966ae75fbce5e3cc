"""The leases of one process: one thread at a time is in their file, whoever does not wait for it any more."""

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.leases import Leases, wall_us
from eventstore.sqlite3_module import sqlite3
from runfold.errors import Unavailable
from runner.claims import RENEW_SECONDS, Claims
from tests.working import PATIENCE_SECONDS

TURNS = 20


async def test_who_closes_the_leases_waits_for_the_thread_of_one_who_was_cancelled(tmp_path: Path) -> None:
    is_there, goes_on, ended = threading.Event(), threading.Event(), list[str]()

    def clock() -> int:
        is_there.set()
        goes_on.wait(PATIENCE_SECONDS)
        ended.append("thread")
        return wall_us()

    claims = Claims(Leases.open(tmp_path, wall_us=clock), RENEW_SECONDS)
    attending = asyncio.create_task(claims.attend())
    await asyncio.to_thread(is_there.wait, PATIENCE_SECONDS)
    closing = asyncio.create_task(claims.close())
    for _ in range(TURNS):
        attending.cancel()
        await asyncio.sleep(0)
    before = attending.done(), closing.done(), list(ended)
    goes_on.set()
    await closing
    ended.append("closed")
    with pytest.raises(asyncio.CancelledError):
        await attending

    assert before == (False, False, [])
    assert ended[0] == "thread"
    assert ended[-1] == "closed"


async def test_a_lease_that_cannot_be_renewed_once_is_renewed_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, tried, renewed = Leases.open(tmp_path), list[int](), asyncio.Event()
    loop, renew = asyncio.get_running_loop(), leases.renew

    def locked_once(run_id: str, claim: int) -> bool:
        tried.append(claim)
        if len(tried) == 1:
            raise Unavailable("database is locked")
        is_held = renew(run_id, claim)
        loop.call_soon_threadsafe(renewed.set)
        return is_held

    monkeypatch.setattr(leases, "renew", locked_once)
    claims, lost = Claims(leases, 0.01), list[str]()
    try:
        await claims.take("r_a", "default", 1)
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            claims.renewing("r_a", lambda: 1, lambda: lost.append("lost")),
        ):
            await renewed.wait()
    finally:
        await claims.close()

    assert lost == []


async def test_leases_that_somebody_holds_are_unavailable_for_as_long_as_he_does(tmp_path: Path) -> None:
    leases = Leases.open(tmp_path)
    leases._connection.execute("PRAGMA busy_timeout = 1")
    claims = Claims(leases, RENEW_SECONDS)
    try:
        with closing(sqlite3.connect(tmp_path / "leases.db", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                await claims.take("r_a", "default", 1)
            somebody.execute("ROLLBACK")

        await claims.take("r_a", "default", 1)
    finally:
        await claims.close()

"""The leases of one process: one thread at a time is in their file, whoever does not wait for it any more."""

import asyncio
import threading
from pathlib import Path

import pytest

from eventstore.leases import Leases, wall_us
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

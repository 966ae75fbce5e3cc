"""Who waits for a thread does not go on before it has ended."""

import asyncio
import threading

import pytest

from runner.threads import in_thread
from tests.working import PATIENCE_SECONDS


async def test_a_thread_is_waited_for_also_where_every_task_is_cancelled_as_at_the_end_of_a_loop() -> None:
    is_there, goes_on, ended = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        is_there.set()
        goes_on.wait(PATIENCE_SECONDS)
        ended.append("thread")

    waiting = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(is_there.wait, PATIENCE_SECONDS)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([waiting], timeout=0.01)
    before = waiting.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert (before, ended) == (False, ["thread"])

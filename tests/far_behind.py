"""A log that its views are far behind."""

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.engine.views import BEHIND_MAX
from runfold.commands import OpenReported
from runfold.events import Message, RunQueued
from tests.histories import new_event
from tests.ledgers import act

OLDER, NEWER = "r_" + "a" * 26, "r_" + "b" * 26


async def fill(log: SqliteLog) -> None:
    """Give a log two reported runs, and more than anybody waits for."""
    ledger = Ledger(log)
    for run_id in (OLDER, NEWER):
        await act(ledger, OpenReported(queued=RunQueued(driver="reported", title=run_id)), run_id=run_id)
    await say_much(log, NEWER)


async def say_much(log: SqliteLog, run_id: str) -> None:
    at = (await log.bounds()).last
    for _ in range(BEHIND_MAX // 500 + 1):
        said = [new_event(Message(text="…")) for _ in range(500)]
        at = (await log.append(run_id, said, expected=at)).last

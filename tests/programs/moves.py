"""Moves a run of its own for ever and says each move once it is granted; arguments: data folder, run id."""

import asyncio
import itertools
import sys
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Command, Observe, OpenReported, Pause, Resume
from runfold.events import Message, RunQueued, UnitApproved, UnitStarted


async def main() -> None:
    data, run_id = Path(sys.argv[1]), sys.argv[2]
    log = await SqliteLog.open(data)
    ledger = Ledger(log, data=data)

    async def say(command: Command) -> None:
        await ledger.execute(run_id, command, actor="user:a", tenant="default")
        print("moved", flush=True)

    await say(OpenReported(queued=RunQueued(driver="reported", unit_name="frame", units_total=1_000_000)))
    for number in itertools.count():
        await say(Observe(events=(Message(text="m"), UnitStarted(unit=str(number), index=number))))
        await say(Pause(reason="a look"))
        await say(Resume())
        await say(Observe(events=(UnitApproved(unit=str(number)),)))


asyncio.run(main())

"""Reports events to one run through a ledger of its own process, and prints the position of each."""

import asyncio
import sys
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Observe
from runfold.events import Message


async def main(data: Path, run_id: str, ids: list[str]) -> None:
    log = await SqliteLog.open(data)
    ledger = Ledger(log)
    for name in ids:
        wish = Observe(events=(Message(text=name),))
        answer = await ledger.execute(run_id, wish, ids=[name], actor="user:b", tenant="default")
        sys.stdout.write(f"{answer.events[0].id} {answer.events[0].position} {answer.duplicate}\n")
    await log.close()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))

"""Orders and drives a command as `runfold run` does: DATA, then the command; RUN_ID_FD is told the run's id."""

import asyncio
import os
import sys
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.events import RunQueued
from runner.here import drive_here
from runner.launch import launch_here
from runner.turns.terminal import is_terminal


async def main() -> int:
    data, argv = Path(sys.argv[1]), sys.argv[2:]
    log = await SqliteLog.open(data)
    try:
        number = int(os.environ.get("RUN_ID_FD", "-1"))

        def tell(run_id: str) -> None:
            if number >= 0:
                os.write(number, run_id.encode() + b"\n")
                os.close(number)

        order = RunQueued(
            driver="here",
            title=" ".join(argv),
            command=tuple(argv),
            cwd=str(Path.cwd()),
            grace_seconds=float(os.environ.get("GRACE_SECONDS", "0.3")),
        )
        launch = launch_here(order, None, shown=True, tty=is_terminal(1))
        return await drive_here(Ledger(log), log, order, launch, data=data, actor="user:test", start=tell)
    finally:
        await log.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""Runs a command under `run_here`: DATA, then the command; the run's id goes to the descriptor in RUN_ID_FD."""

import asyncio
import os
import sys
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runner.here import run_here


async def main() -> int:
    data = Path(sys.argv[1])
    log = await SqliteLog.open(data)
    try:
        number = int(os.environ.get("RUN_ID_FD", "-1"))

        def tell(run_id: str) -> None:
            if number >= 0:
                os.write(number, run_id.encode() + b"\n")
                os.close(number)

        grace = float(os.environ.get("GRACE_SECONDS", "0.3"))
        return await run_here(
            Ledger(log), log, data=data, argv=sys.argv[2:], actor="user:test", grace_seconds=grace, start=tell
        )
    finally:
        await log.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""The proof beside the server: now and then, in a process of its own that gets what is left of the machine.

It is not done here: a busy thread in the process that writes takes most of its appends.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cli.beside import run_beside
from eventstore.proof.verified import Verified, read_verified
from runfold.envelope import time_us

FIRST_AFTER_SECONDS = 30  # What was overdue while no server was up does not have to slow its start.


async def prove_now_and_then(data: Path, every_seconds: int) -> None:
    """Prove the folder whenever the last whole proof is too old, until cancelled; 0 is never."""
    if not every_seconds:
        return
    await asyncio.sleep(min(every_seconds, FIRST_AFTER_SECONDS))
    while True:
        await asyncio.sleep(_due_in_seconds(read_verified(data), every_seconds))
        before = read_verified(data)
        await run_beside(data, "verify", "--gently", "--while-asked", "--json")
        verified = read_verified(data)
        if verified == before or verified is None:
            structlog.get_logger().warning("the data folder could not be proved", hint="`runfold verify` says why")
            await asyncio.sleep(every_seconds)
        elif verified.ok:
            structlog.get_logger().info("the data folder is sound", position=verified.head)
        else:
            structlog.get_logger().error(
                "the data folder is not sound", faults=verified.faults_found, hint="`runfold doctor` says more"
            )


def _due_in_seconds(verified: Verified | None, every_seconds: int) -> float:
    if verified is None:
        return 0.0
    age_seconds = datetime.now(UTC).timestamp() - time_us(verified.finished_at) / 1_000_000
    # A clock that was set back must not put it off for ever.
    return min(max(0.0, every_seconds - age_seconds), every_seconds)

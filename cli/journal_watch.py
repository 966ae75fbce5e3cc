"""What the server says when a process keeps the log's journal growing, and when it does no more."""

import asyncio
from pathlib import Path

import structlog

from eventstore.journal import journal_of

LOOKED_EVERY_SECONDS = 5.0


async def watch_journal(data: Path, every_seconds: float = LOOKED_EVERY_SECONDS) -> None:
    """Tell who keeps it, once for each of them, until cancelled."""
    told: tuple[int, ...] = ()
    while True:
        journal = await asyncio.to_thread(journal_of, data)
        pids = tuple(holder.pid for holder in journal.held_by)
        if pids and pids != told:
            structlog.get_logger().warning(journal.sentence, pids=pids, hint=journal.remedy)
        elif told and not pids:
            structlog.get_logger().info("nobody keeps the log's journal any more", bytes=journal.size_bytes)
        told = pids
        await asyncio.sleep(every_seconds)

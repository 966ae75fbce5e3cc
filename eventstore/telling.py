"""State files written behind the answers: a server's caller waits for the log, never for the file of his run."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import structlog

from eventstore.state_file import kept_going, write_state
from runfold.envelope import Recorded
from runfold.state import Run

WAITING_MAX = 1_000  # Appends whose file is not written yet; who appends more waits.

logger = structlog.get_logger()

Moved: TypeAlias = tuple[Run, Sequence[Recorded]]
"""A run before an append, and what was appended."""
Tell: TypeAlias = Callable[[Moved], Awaitable[None]]


async def tell_at_once(data: Path, moved: Moved) -> None:
    """For a command that ends right after: the file is there when it does."""
    with kept_going():
        await asyncio.to_thread(write_state, data, *moved)


@asynccontextmanager
async def told_behind(data: Path) -> AsyncGenerator[Tell]:
    """Takes what moved, and writes it in order; all of it before the block is left, which a kill leaves to mending."""
    waiting = asyncio.Queue[Moved | None](WAITING_MAX)
    writing = asyncio.create_task(_write_all(data, waiting), name="state files")
    try:
        yield waiting.put
    finally:
        await waiting.put(None)
        await writing


async def _write_all(data: Path, waiting: asyncio.Queue[Moved | None]) -> None:
    is_open = True
    while is_open:
        taken = [await waiting.get()]
        while not waiting.empty():
            taken.append(waiting.get_nowait())
        is_open = None not in taken
        await asyncio.to_thread(_write, data, [moved for moved in taken if moved is not None])


def _write(data: Path, told: Sequence[Moved]) -> None:
    for before, events in told:
        try:
            write_state(data, before, events)
        except Exception as error:
            # The log has it, and `verify` tells; the files of other runs are written all the same.
            logger.warning("state file not written", run_id=before.run_id, error=str(error))

"""Measures the ledger beside the log it writes to: commands a second as ratios of plain appends of the same events."""

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from bench.scoreboard import Figure, compared, interleaved, show
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Observe, OpenReported
from runfold.envelope import NewEvent
from runfold.events import FileWritten, RunQueued, encode_data

ROUNDS = 5
CALLERS = 64
COMMANDS_ALONE = 300
COMMANDS_EACH = 40
EVENT = FileWritten(path="src/" + "a" * 170 + ".py", bytes=1234, kind="update")

Work: TypeAlias = Callable[[SqliteLog, Ledger], Awaitable[object]]


def new_event() -> NewEvent:
    return NewEvent(
        id=str(uuid.uuid4()), type="file_written", data=encode_data(EVENT), at_us=time.time_ns() // 1000,
        sent=b"s" * 32, command=str(uuid.uuid4()), actor="worker:bench", tenant="default",
    )  # fmt: skip


async def plain(log: SqliteLog, run_id: str, count: int) -> None:
    last = await log.last(run_id)
    position = 0 if last is None else last.position
    for _ in range(count):
        position = (await log.append(run_id, [new_event()], expected=position)).last


async def plain_together(log: SqliteLog, run_id: str, count: int) -> None:
    """What many callers of one run can get at best: their events leave as one append."""
    last = await log.last(run_id)
    position = 0 if last is None else last.position
    for _ in range(count):
        position = (await log.append(run_id, [new_event() for _ in range(CALLERS)], expected=position)).last


async def command(ledger: Ledger, run_id: str, count: int, *, keyed: bool) -> None:
    for _ in range(count):
        key = str(uuid.uuid4()) if keyed else None
        await ledger.execute(run_id, Observe(events=(EVENT,)), command_id=key, actor="worker:bench", tenant="default")


async def seconds_of(work: Work) -> float:
    with tempfile.TemporaryDirectory() as folder:
        log = await SqliteLog.open(Path(folder))
        ledger = Ledger(log)
        for number in range(CALLERS):
            await ledger.execute(
                f"r_{number}", OpenReported(queued=RunQueued(driver="reported")), actor="worker:bench", tenant="default"
            )
        started = time.perf_counter()
        await work(log, ledger)
        seconds = time.perf_counter() - started
        await log.close()
    return seconds


def shapes(keyed: bool) -> dict[str, tuple[Work, Work]]:
    """Name → plain appends, and commands that become the same events."""
    return {
        "1 caller": (
            lambda log, _: plain(log, "r_0", COMMANDS_ALONE),
            lambda _, ledger: command(ledger, "r_0", COMMANDS_ALONE, keyed=keyed),
        ),
        "64 callers on 64 runs": (
            lambda log, _: asyncio.gather(*(plain(log, f"r_{n}", COMMANDS_EACH) for n in range(CALLERS))),
            lambda _, ledger: asyncio.gather(
                *(command(ledger, f"r_{n}", COMMANDS_EACH, keyed=keyed) for n in range(CALLERS))
            ),
        ),
        "64 callers on one run": (
            lambda log, _: plain_together(log, "r_0", COMMANDS_EACH),
            lambda _, ledger: asyncio.gather(
                *(command(ledger, "r_0", COMMANDS_EACH, keyed=keyed) for _ in range(CALLERS))
            ),
        ),
    }


def measure() -> Iterator[Figure]:
    for keyed in (False, True):
        for name, (append, execute) in shapes(keyed).items():
            count = COMMANDS_ALONE if name == "1 caller" else COMMANDS_EACH * CALLERS
            works = {"append": append, "execute": execute}
            rates = interleaved(
                ROUNDS,
                {kind: lambda work=work: count / asyncio.run(seconds_of(work)) for kind, work in works.items()},  # type: ignore[misc]  # noqa: B023
            )
            told = f"{name}, {'with a command id' if keyed else 'without'}"
            yield compared(told, "commands/s", rates["execute"], rates["append"], beside="plain appends")


if __name__ == "__main__":
    sys.exit(show(measure()))

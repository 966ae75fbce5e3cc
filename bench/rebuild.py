"""Measures folding all views from a log of mixed agent runs, beside plainly reading the same rows.

In seconds of this process alone, as the machine may be shared; the log is written once.
"""

import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.scoreboard import Figure, compared, interleaved, show
from eventstore.reading import open_reader, read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.catalogue import VIEWS
from projections.rebuilding import rebuild
from runfold.envelope import NewEvent
from runfold.events import (
    CommandExecuted,
    Event,
    FileRead,
    FileWritten,
    Message,
    Reasoning,
    RunClaimed,
    RunCompleted,
    RunQueued,
    RunStarted,
    SubprocessOutput,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
    TurnStarted,
    encode_data,
    event_type,
)

EVENTS = 200_000
RUN_EVENTS = 400
ROUNDS = 3
TOGETHER = 8  # Runs whose events lie interleaved in the log, as those of several workers do.


def story(chance: random.Random, number: int) -> list[Event]:
    """A run of an agent: mostly output and tools, some files, few turns."""
    opening: list[Event] = [
        RunQueued(workflow=f"w{number % 7}", title=f"run {number}"),
        RunClaimed(worker="w", claim=1),
        RunStarted(worker="w", pid=7),
    ]
    events: list[Event] = [*opening, TurnStarted(turn=1, pid=8)]
    while len(events) < RUN_EVENTS - 3:
        path, text, call = f"src/{chance.randrange(300)}.py", "x" * 160, f"call-{len(events)}"
        kinds: tuple[list[Event], ...] = (
            [SubprocessOutput(text=text)],
            [ToolCalled(tool="edit", call_id=call, arguments={"path": path}), ToolReturned(call_id=call, result=text)],
            [Message(text=text)],
            [Reasoning(text=text)],
            [FileRead(path=path, bytes=900)],
            [FileWritten(path=path, bytes=900, kind="update")],
            [CommandExecuted(command="make test", exit_code=0, duration_ms=800)],
            [TokenUsage(model="m", provider="p", input_tokens=900, output_tokens=90, cost_micros=400)],
        )
        events += chance.choices(kinds, weights=(45, 10, 10, 8, 8, 8, 6, 5))[0]
    return [*events, TurnCompleted(turn=1, exit_code=0, duration_ms=9_000), RunCompleted(reason_code="EXIT_ZERO")]


def new_event(event: Event, at_us: int) -> NewEvent:
    return NewEvent(
        id=str(uuid.uuid4()), type=event_type(event), data=encode_data(event), at_us=at_us, tenant="default",
        actor="worker:bench",
    )  # fmt: skip


async def fill(folder: Path, count: int) -> None:
    chance, log, at_us = random.Random(7), await SqliteLog.open(folder), 1_700_000_000_000_000
    for first in range(0, count // RUN_EVENTS, TOGETHER):
        stories = {f"r_{number:08}": story(chance, number) for number in range(first, first + TOGETHER)}
        last = dict.fromkeys(stories, 0)
        while stories:
            for run_id, events in list(stories.items()):
                size = chance.randrange(1, 40)
                at_us += 1_000
                new = [new_event(event, at_us) for event in events[:size]]
                last[run_id] = (await log.append(run_id, new, expected=last[run_id])).last
                stories[run_id] = events[size:]
                if not stories[run_id]:
                    del stories[run_id]
    await log.close()


def read_plainly(folder: Path) -> float:
    plain, position = sqlite3.connect(folder / "log.db"), 0
    started = time.process_time()
    while rows := plain.execute(
        "SELECT position, run_id, type, data FROM events WHERE position > ? ORDER BY position LIMIT 500", (position,)
    ).fetchall():
        position = rows[-1][0]
    seconds = time.process_time() - started
    plain.close()
    return seconds


def read_pages(folder: Path) -> float:
    reader, position = open_reader(folder), 0
    started = time.process_time()
    while (page := read_page(reader, after=position)).events:
        position = page.scanned_to
    seconds = time.process_time() - started
    reader.close()
    return seconds


def rebuild_with(folder: Path, names: tuple[str, ...]) -> float:
    started = time.process_time()
    rebuild(folder, views=tuple(view for view in VIEWS if view.name in names))
    return time.process_time() - started


def measure() -> Iterator[Figure]:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    names = tuple(view.name for view in VIEWS)
    with tempfile.TemporaryDirectory(prefix="runfold-bench-") as name:
        folder = Path(name)
        asyncio.run(fill(folder, count))
        reader = open_reader(folder)
        count = reader.execute("SELECT position FROM head").fetchone()[0]
        reader.close()
        works: dict[str, Callable[[], float]] = {
            "read as pages": partial(read_pages, folder),
            f"rebuild of all {len(names)} views": partial(rebuild_with, folder, names),
            **{f"rebuild of `{name}` alone": partial(rebuild_with, folder, (name,)) for name in names},
        }
        took = interleaved(ROUNDS, {"plain": lambda: read_plainly(folder), **works})
    rates = {work: [count / seconds for seconds in rounds] for work, rounds in took.items()}
    for work in works:
        yield compared(work, "events/s", rates[work], rates["plain"], beside="plain rows")


if __name__ == "__main__":
    sys.exit(show(measure()))

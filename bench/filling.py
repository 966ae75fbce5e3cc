"""Logs to measure with: rows as appends write them, with their true hash chain, but thousands a transaction."""

import asyncio
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from eventstore.chain import data_digest, link
from eventstore.rows import uuid_bytes
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import derived_id
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

STARTS_AT_US = 1_700_000_000_000_000
APART_US = 1_000
RUN_EVENTS = 400
TOGETHER = 8  # Runs whose events lie interleaved in the log, as those of several workers do.
ROWS_TOGETHER = 5_000
NAMESPACE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
TENANT, ACTOR = "default", "worker:bench"


def run_name(number: int) -> str:
    return f"r_{number:026d}"


def agents(events: int) -> Iterator[tuple[str, Event]]:
    """Runs of agents, mostly output and tools, some files, few turns: data of about 160 bytes an event."""
    chance = random.Random(7)
    for first in range(0, events // RUN_EVENTS, TOGETHER):
        stories = {run_name(number): story(chance, number) for number in range(first, first + TOGETHER)}
        while stories:
            for run_id, left in list(stories.items()):
                size = chance.randrange(1, 40)
                yield from ((run_id, event) for event in left[:size])
                stories[run_id] = left[size:]
                if not stories[run_id]:
                    del stories[run_id]


def story(chance: random.Random, number: int, size: int = RUN_EVENTS) -> list[Event]:
    """One run of about so many events."""
    events: list[Event] = [
        RunQueued(workflow=f"w{number % 7}", title=f"run {number}"),
        RunClaimed(worker="w", claim=1),
        RunStarted(worker="w", pid=7),
        TurnStarted(turn=1, pid=8),
    ]
    while len(events) < size - 3:
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


def fill(data: Path, events: Iterable[tuple[str, Event]]) -> int:
    """Write these events of (run, event) into a log that nobody else has open; its number of events."""
    asyncio.run(_made(data))
    connection = sqlite3.connect(data / "log.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    position = connection.execute("SELECT position FROM head").fetchone()[0]
    heads: dict[str, tuple[int, int, bytes]] = {}
    remaining = iter(events)
    while part := list(islice(remaining, ROWS_TOGETHER)):
        rows: list[tuple[object, ...]] = []
        for run_id, event in part:
            position += 1
            _, version, previous = heads.get(run_id, (0, 0, b""))
            rows.append(_row(position, run_id, version + 1, previous, event))
            heads[run_id] = (position, version + 1, rows[-1][14])  # type: ignore[assignment]
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO events (position, run_id, version, id, type, schema, at_us, recorded_at_us, tenant, actor,"
            " cause, command, sent, correlation, hash, data, salt) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            rows,
        )
        connection.execute("COMMIT")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO heads VALUES (?, ?, ?, ?)", [(run_id, *it) for run_id, it in heads.items()])
    connection.execute("UPDATE head SET position = ?, recorded_at_us = ?", (position, _at_us(position)))
    connection.execute("COMMIT")
    connection.close()
    return int(position)


def _row(position: int, run_id: str, version: int, previous: bytes, event: Event) -> tuple[object, ...]:
    type_name, content, at_us = event_type(event), encode_data(event), _at_us(position)
    identity, salt = uuid_bytes(derived_id(NAMESPACE, str(position))), position.to_bytes(16, "big")
    link_hash = link(
        previous,
        tenant=TENANT,
        run_id=run_id,
        version=version,
        identity=identity,
        type_name=type_name,
        schema=1,
        at_us=at_us,
        actor=ACTOR,
        cause=None,
        command=None,
        sent=None,
        correlation="",
        digest=data_digest(salt, content),
    )
    return (
        position, run_id, version, identity, type_name, 1, at_us, at_us, TENANT, ACTOR,
        None, None, None, "", link_hash, content, salt,
    )  # fmt: skip


def _at_us(position: int) -> int:
    return STARTS_AT_US + position * APART_US


async def _made(data: Path) -> None:
    await (await SqliteLog.open(data)).close()

"""A log on SQLite with some events, the proof of it, and a stranger who opens its file."""

from contextlib import closing
from pathlib import Path

from eventstore.log_file import open_reader
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from tests.contract.events import numbered


def stranger(data: Path) -> sqlite3.Connection:
    """The file as somebody opens it who knows nothing of runfold."""
    return sqlite3.connect(data / "log.db", isolation_level=None, timeout=10)


def problems(data: Path) -> list[str]:
    with closing(open_reader(data)) as connection:
        return [fault.message for fault in Proof(connection).faults()]


async def filled(data: Path) -> list[int]:
    """The positions of three events of `r_0` and three of `r_1`."""
    log = await SqliteLog.open(data)
    answers = [await log.append(f"r_{number}", numbered(number * 100, 3), expected=0) for number in range(2)]
    await log.close()
    return [event.position for answer in answers for event in answer.events]

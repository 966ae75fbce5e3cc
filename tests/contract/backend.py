"""What a backend shows to be put through the contract suite, and SQLite in one process and in several.

Another backend writes a class with these methods, adds it to `BACKENDS`, and runs every test of this folder.
"""

from pathlib import Path
from typing import Protocol

from eventstore.contract import EventLog
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from tests.contract.events import START_US
from tests.contract.jetstream import Replicated
from tests.contract.process import RemoteLog, address


class Backend(Protocol):
    now_us: int
    """What the clock of every log shows; a test may set it, also back."""

    async def open(self) -> EventLog:
        """The log, here; again after `close` of the one before: the same log reopened."""
        ...

    async def second(self) -> EventLog:
        """The same log as somebody else has it open: another process where the backend knows several."""
        ...

    async def trim(self, position: int) -> None:
        """Let everything up to the position be gone."""
        ...

    async def close(self) -> None:
        """Close every log that was opened."""
        ...


class OneProcess:
    """SQLite with one log that all share."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.now_us = START_US
        self._opened: list[EventLog] = []

    async def open(self) -> EventLog:
        log = await SqliteLog.open(self.data, now_us=lambda: self.now_us)
        self._opened.append(log)
        return log

    async def second(self) -> EventLog:
        return self._opened[-1]

    async def trim(self, position: int) -> None:
        connection = sqlite3.connect(self.data / "log.db", isolation_level=None)
        connection.execute("UPDATE head SET trimmed_to = ?", (position,))
        connection.close()

    async def close(self) -> None:
        for log in self._opened:
            await log.close()


class SeveralProcesses(OneProcess):
    """SQLite with a second process that holds its own log on the same folder."""

    async def second(self) -> EventLog:
        log = await RemoteLog.open(self.data, address())
        self._opened.append(log)
        return log


BACKENDS: dict[str, type[OneProcess] | type[Replicated]] = {
    "sqlite in one process": OneProcess,
    "sqlite in several processes": SeveralProcesses,
    "jetstream": Replicated,
}

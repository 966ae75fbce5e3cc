"""The log that a test is run on: the folder's own, or one on a cluster of three servers, see `each_log`."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from eventstore.jetstream.address import parse_address
from eventstore.jetstream.log import JetStreamLog
from eventstore.sqlite import SqliteLog

DAY_US = 86_400 * 1_000_000


def _now_us() -> int:
    return time.time_ns() // 1000


def tomorrow_us() -> int:
    """The clock of a log in which whatever is spent counts today, also when today ends meanwhile."""
    return _now_us() + DAY_US


class Logs:
    """Which log is opened now, by whoever opens one for a test."""

    def __init__(self) -> None:
        self._address = ""

    def replicate(self, url_of: Callable[[str], str]) -> None:
        """From now on a log of its own on a cluster; `url_of` its name is where."""
        self._address = url_of(f"t{uuid.uuid4().hex}")

    def keep_here(self) -> None:
        self._address = ""

    async def open(self, data: Path, *, now_us: Callable[[], int] = _now_us) -> SqliteLog:
        if not self._address:
            return await SqliteLog.open(data, now_us=now_us)
        return await JetStreamLog.connect(parse_address(self._address), data, now_us=now_us)


logs = Logs()

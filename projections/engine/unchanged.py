"""Whether log and views are still as they were, told at once: no thread is asked, and nobody is waited for."""

import os
import time
from pathlib import Path
from typing import TypeAlias

from eventstore.log_file import LOG_FILE, open_reader
from eventstore.reading import data_version
from eventstore.sqlite3_module import sqlite3
from runfold.errors import RunfoldError

SETTLED_NS = 50_000_000  # Times of files are exact to some milliseconds: two changes within one tick look like one.
Mark: TypeAlias = tuple[int, int, int]


class Unchanged:
    """For one thread. Two equal marks say that nothing was written between them, by whatever process.

    The log counts its commits; another log, or another generation of the views, is another name in the folder.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._folder = str(data)  # A path is made into text anew each time.
        self._connection: sqlite3.Connection | None = None
        self._folder_ns = 0
        self._file = (0, 0)
        self._opened = 0

    def mark(self) -> Mark | None:
        """What stands for the present state; None where that cannot be told at once."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
            if not 0 <= changed_ns <= time.time_ns() - SETTLED_NS:
                return None
            if self._connection is None or changed_ns != self._folder_ns:
                self._look(changed_ns)
            assert self._connection is not None  # noqa: S101
            return self._opened, changed_ns, data_version(self._connection)
        except (OSError, sqlite3.Error, RunfoldError):
            return None

    def _look(self, changed_ns: int) -> None:
        found = os.stat(self._data / LOG_FILE)
        if self._connection is None or self._file != (found.st_dev, found.st_ino):
            self.close()
            self._connection = open_reader(self._data)
            self._connection.execute("PRAGMA busy_timeout = 0")
            # Another connection counts anew, so what it counts is another mark.
            self._file, self._opened = (found.st_dev, found.st_ino), self._opened + 1
        self._folder_ns = changed_ns

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

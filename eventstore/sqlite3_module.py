"""The one place that chooses the SQLite: the standard library's, or pysqlite3's where that has the WAL-reset bug."""

import importlib
import sqlite3 as standard_library
from typing import TYPE_CHECKING, Any

AFFECTED_FIRST = (3, 7, 0)
AFFECTED_LAST = (3, 51, 2)
"""SQLite from AFFECTED_FIRST to AFFECTED_LAST can corrupt a WAL database when two connections checkpoint at once."""


def is_affected(version: tuple[int, ...] | None = None) -> bool:
    """Whether a SQLite version (default: the chosen one) has the WAL-reset bug."""
    return AFFECTED_FIRST <= (sqlite3.sqlite_version_info if version is None else version) <= AFFECTED_LAST


if TYPE_CHECKING:
    # pysqlite3 has the same interface and no type stubs.
    import sqlite3
else:
    sqlite3 = standard_library
    if AFFECTED_FIRST <= standard_library.sqlite_version_info <= AFFECTED_LAST:
        try:
            sqlite3 = importlib.import_module("pysqlite3.dbapi2")
        except ImportError:
            sqlite3 = standard_library

# The module asks its table of adapters for every value that is None or bytes, and where it finds nothing there goes
# looking for methods that neither has, which takes longer than writing the row. Both stay what they are.
_nothing: dict[None, None] = {}
sqlite3.register_adapter(bytes, bytes.__bytes__)
sqlite3.register_adapter(type(None), _nothing.get)

SQLITE_VERSION: str = sqlite3.sqlite_version

_OPEN_READWRITE, _OPEN_CREATE, _OPEN_NOMUTEX = 0x2, 0x4, 0x8000  # As in sqlite3.h.
UNSHARED: dict[str, Any] = {}
"""For `connect`, of a connection for millions of rows that no other thread ever meets, not even to collect garbage.

SQLite takes a lock for each value that is read or bound, for threads that share a connection; then it takes none.
The standard library cannot ask for that.
"""
if sqlite3 is not standard_library:
    UNSHARED["flags"] = _OPEN_READWRITE | _OPEN_CREATE | _OPEN_NOMUTEX

__all__ = ["SQLITE_VERSION", "UNSHARED", "is_affected", "sqlite3"]

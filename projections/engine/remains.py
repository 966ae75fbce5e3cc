"""Whether the file of the views may still hold, in pages that are free, a text that is no longer in any row of it.

A row that is folded anew leaves what it was in its page; only another file has none of it. The mark is written in the
transaction that folds anew, and is the file's user_version, so the next generation begins without it.
"""

from collections.abc import Iterable
from operator import attrgetter

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Fact
from runfold.events import REWRITES

_type_of = attrgetter("type")


def mark_remains(connection: sqlite3.Connection, facts: Iterable[Fact]) -> None:
    """Note that what some of these events say is gone was in the file before."""
    if not REWRITES.isdisjoint(map(_type_of, facts)):
        connection.execute("PRAGMA user_version = 1")


def holds_remains(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA user_version").fetchone()[0])


def clear_remains(connection: sqlite3.Connection) -> None:
    """For a file that was just written anew from rows alone."""
    connection.execute("PRAGMA user_version = 0")

"""One moment of the log for all statements of a reading: what others trim, redact or bring back meanwhile comes later.

Without it an event could be read before it went, and compared with what is kept after it: as if it had been altered.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from eventstore.sqlite3_module import sqlite3

_P = ParamSpec("_P")
_T = TypeVar("_T")


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Generator[None]:
    """It is that of the first statement, or of the transaction that has begun already."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # Where the disk failed, SQLite has ended it.
        if connection.in_transaction:
            connection.execute("COMMIT")


def at_one_moment(
    read: Callable[Concatenate[sqlite3.Connection, _P], _T],
) -> Callable[Concatenate[sqlite3.Connection, _P], _T]:
    """The same reading of the log, of one moment."""

    @wraps(read)
    def reading(connection: sqlite3.Connection, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with one_moment(connection):
            return read(connection, *args, **kwargs)

    return reading

"""What SQLite says of a log's file that was altered or broken, told as the damage that it is."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from eventstore.sqlite3_module import sqlite3
from runfold.errors import Damaged

HINT = "`runfold verify` tells all that does not match; a backup has it as it was"
UNOPENED_HINT = "keep a copy of the data folder as it is, then restore a backup"
_CORRUPT, _NOT_A_DATABASE = 11, 26  # As in sqlite3.h; the upper bits say where it happened.
_NOT_DONE, _FULL = 10, 13
_HELD = frozenset({5, 6, 15})  # Busy, locked, and the journal's index, which another does not get done.
_PASSING = _HELD | {7, 8, 10, 13, 14}  # No memory, read-only, input or output, full, not opened.
_UNDECODED = "Could not decode to UTF-8"  # So the module begins what it says of a text that is none.
_LACKING = ("no such table: ", "no such column: ", "no such index: ")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_undecoded(error: sqlite3.DatabaseError) -> bool:
    return str(error).startswith(_UNDECODED)


def is_lacking(error: sqlite3.DatabaseError) -> bool:
    """Whether a table, a column or an index is not there that is asked for."""
    return str(error).startswith(_LACKING)


def is_no_database(error: sqlite3.DatabaseError) -> bool:
    return _code(error) == _NOT_A_DATABASE


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether it is about what the file holds, and not about locks, space, rights or a statement."""
    return _code(error) in (_CORRUPT, _NOT_A_DATABASE) or is_undecoded(error)


def is_held(error: sqlite3.DatabaseError) -> bool:
    """Whether another holds the file, and nothing was done to it."""
    return _code(error) in _HELD


def is_passing(error: sqlite3.DatabaseError) -> bool:
    """Whether it is about locks, space, rights or the disk, which may be otherwise in a while."""
    return _code(error) in _PASSING


def damage_of(error: Exception, *, hint: str = HINT) -> Damaged:
    return Damaged(f"the log's file is damaged: {error}", hint=hint)


def is_of_disk(error: Exception) -> bool:
    """Whether there is no room, or the disk refuses."""
    return isinstance(error, sqlite3.DatabaseError) and _code(error) in (_NOT_DONE, _FULL)


@contextmanager
def telling_damage() -> Generator[None]:
    """What is read of the log here raises Damaged where its file is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise damage_of(error) from error


def told_as_damage(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same reading of the log, which raises Damaged where the file is."""

    @wraps(read)
    def reading(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with telling_damage():
            return read(*args, **kwargs)

    return reading


def _code(error: sqlite3.DatabaseError) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF

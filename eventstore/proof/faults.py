"""What a proof finds: one fault, what kind of thing it is about, and where it stands."""

import struct
from collections.abc import Iterator
from typing import Literal

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.errors import Damaged

Kind = Literal["file", "event", "head", "anchor", "signature", "blob", "output", "state", "view", "copy", "stream"]
OF_ANOTHER_KIND = (AttributeError, TypeError, OverflowError, struct.error)
"""What reading a damaged row raises: a flipped bit makes a number of a text, which no hash can be computed of, or a
time that no calendar has.
"""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`position` is of the first event that is concerned, where there is one."""

    kind: Kind
    message: str
    run_id: str | None = None
    position: int | None = None


def told(faults: Iterator[Fault]) -> Iterator[Fault]:
    """The same; that the log's file cannot be read any further is one of them."""
    try:
        yield from faults
    except Damaged as error:
        yield Fault(kind="file", message=error.message, run_id=error.run_id)
    except sqlite3.DatabaseError as error:
        yield Fault(kind="file", message=f"the log's file is damaged: {error}")

"""What a proof finds: one fault, what kind of thing it is about, and where it stands."""

import struct
from typing import Literal

import msgspec

Kind = Literal["file", "event", "head", "anchor", "blob", "output", "state", "view", "copy", "stream"]
OF_ANOTHER_KIND = (AttributeError, TypeError, struct.error)
"""What reading a damaged row raises: a flipped bit makes a number of a text, which no hash can be computed of."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`position` is of the first event that is concerned, where there is one."""

    kind: Kind
    message: str
    run_id: str | None = None
    position: int | None = None

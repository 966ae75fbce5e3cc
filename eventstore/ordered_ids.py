"""Ids for commands that follow time, with bits that are drawn many at a time: every draw lets another thread in."""

import os
import time

DRAWN_BYTES = 4096
_CHANCE_BYTES = 10  # 74 bits of them are used.
_VERSION_7 = 7 << 76
_VARIANT = 2 << 62
_CHANCE = (1 << 76) - 1 & ~(3 << 62)
_drawn = bytearray()


def ordered_id() -> str:
    """The canonical text of a v7 UUID (RFC 9562): what is stored under it lands beside what was stored before."""
    if len(_drawn) < _CHANCE_BYTES:
        _drawn[:] = os.urandom(DRAWN_BYTES)
    number = int.from_bytes(_drawn[-_CHANCE_BYTES:]) & _CHANCE | _VERSION_7 | _VARIANT
    del _drawn[-_CHANCE_BYTES:]
    text = f"{time.time_ns() // 1_000_000 << 80 | number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# Two processes must not hand out the same ones.
os.register_at_fork(after_in_child=_drawn.clear)

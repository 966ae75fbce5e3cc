"""Random ids for commands, made from bytes that are drawn many at a time: every draw lets another thread in between."""

import os

DRAWN_BYTES = 4096
_VERSION_4 = 4 << 76
_VARIANT = 2 << 62
_KEPT = ~(0xF << 76 | 3 << 62)
_drawn = bytearray()


def random_id() -> str:
    """The canonical text of a v4 UUID (RFC 9562)."""
    if not _drawn:
        _drawn[:] = os.urandom(DRAWN_BYTES)
    number = int.from_bytes(_drawn[-16:]) & _KEPT | _VERSION_4 | _VARIANT
    del _drawn[-16:]
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# Two processes must not hand out the same ones.
os.register_at_fork(after_in_child=_drawn.clear)

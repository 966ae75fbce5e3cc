"""Ids of our own, which follow time, with bits that are drawn many at a time: every draw lets another thread in."""

import os
import time

IDS_DRAWN = 256
_CHANCE_BYTES = 9
_drawn: list[str] = []
_moment = (0, "")


def ordered_id() -> str:
    """The canonical text of a v7 UUID (RFC 9562): what is stored under it lands beside what was stored before."""
    global _moment
    now_ms = time.time_ns() // 1_000_000
    moment_ms, begin = _moment
    if now_ms != moment_ms:
        digits = f"{now_ms:012x}"
        begin = f"{digits[:8]}-{digits[8:]}-"
        _moment = (now_ms, begin)
    while True:
        try:
            return begin + _drawn.pop()
        except IndexError:
            _draw()


def numbered_ids(identity: str, count: int) -> list[str]:
    """The ids of so many events, below 65,536, of a command whose own id was made by `ordered_id`.

    Each is the command's with a number counted into its end, which costs a tenth of a hash.
    """
    begin, end = identity[:-4], int(identity[-4:], 16)
    return [f"{begin}{end ^ number:04x}" for number in range(1, count + 1)]


def _draw() -> None:
    digits = os.urandom(_CHANCE_BYTES * IDS_DRAWN).hex()
    # 72 bits of chance; the variant's two bits are followed by two that are always 0.
    _drawn.extend(
        f"7{digits[at : at + 3]}-8{digits[at + 3 : at + 6]}-{digits[at + 6 : at + 18]}"
        for at in range(0, len(digits), 2 * _CHANCE_BYTES)
    )


# Two processes must not hand out the same ones.
os.register_at_fork(after_in_child=_drawn.clear)

"""Events as SSE frames: encoded once for all who read them, and unbreakable whatever an event's text holds."""

from collections.abc import Callable
from typing import Any

import msgspec

from eventstore.framing import event_frame, one_line
from runfold.envelope import Recorded, envelope_json

CACHE_BYTES_MAX = 8 * 1024 * 1024
DONE = b"event: done\ndata: [DONE]\n\n"


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """In which words a reader wants the events, and whether their frames are named by type."""

    named: bool = False
    as_json: Callable[[Recorded], bytes] = envelope_json


class Frames:
    """Frames of the events read last, by position; the oldest go first."""

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._frames: dict[tuple[int, bytes, bool, Form], bytes] = {}
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def of(self, event: Recorded, form: Form) -> bytes:
        # A redacted event is another frame, and a restored log may hold another event at the position.
        key = (event.position, event.hash, event.data is None, form)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = event_frame(event, form.as_json(event), named=form.named)
            self._size_bytes += len(frame)
            while self._size_bytes > self._bytes_max:
                self._size_bytes -= len(self._frames.pop(next(iter(self._frames))))
        return frame


def reset_frame(value: Any) -> bytes:
    """Sent instead of what is gone: the reader puts this in place of all that it has."""
    return b"event: reset\ndata: " + one_line(msgspec.json.encode(value)) + b"\n\n"


def pending_frame(value: Any) -> bytes:
    """A question that is still open, for who connects after it was asked; it moves nobody's place in the log."""
    return b"event: pending\ndata: " + one_line(msgspec.json.encode(value)) + b"\n\n"


def keepalive(position: int) -> bytes:
    return b":keepalive %d\n\n" % position

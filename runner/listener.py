"""Hears what a program prints, line by line, as events: its own reports, its agent's format, its tests' closing lines.

Called from the threads that carry the streams, one call at a time; quick for output in which there is nothing to hear.
"""

import threading
from collections.abc import Sequence

import msgspec

from runfold.events import Completion, Event, Failure, TelemetryRejected, Unknown
from runfold.telemetry import parse_line

_MARKS = (b'"runfold"', b'"__cody_event__"')


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What the program itself has said of its turn; `format` is empty where it speaks no format that we know."""

    format: str = ""
    succeeded: bool | None = None
    session_id: str | None = None
    final_message: str | None = None
    error: Failure | None = None
    completion: Completion | None = None


class Listener:
    """One turn's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def wants(self, lines: bytes, stream: str) -> bool:
        """Whether to cut these lines up and call `line` for each of them."""
        return any(mark in lines for mark in _MARKS)

    def line(self, text: str, stream: str) -> Sequence[Event | Unknown]:
        with self._lock:
            parsed = parse_line(text)
            if isinstance(parsed, TelemetryRejected):
                return (parsed,)
            return parsed or ()

    def finish(self) -> Sequence[Event | Unknown]:
        """What is only known once the program has ended."""
        return ()

    def heard(self) -> Heard:
        return Heard()

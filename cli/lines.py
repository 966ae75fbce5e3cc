"""One recorded event as one line that a person reads."""

from typing import Any, cast

import msgspec

from cli.screen import colour, edge, is_terminal, plain
from runfold.envelope import Recorded, time_text
from runfold.events import event_class
from runfold.long_text import with_heads

CLASS_COLOURS = {"lifecycle": "cyan", "usage": "magenta", "audit": "yellow", "output": "bright_black"}
SUMMARY_CHARACTERS = 200
END_COLOURS = {"run_completed": "green", "run_failed": "red", "run_stopped": "red", "run_cancelled": "red"}
SKIPPED_FIELDS = frozenset(
    {"cumulative", "semantics", "output_sha256", "prompt_sha256", "sha256", "call_id", "offset", "source"}
)


def event_line(recorded: Recorded, *, indent: int = 0) -> str:
    """`06:31:04  file_written  path=a.py bytes=12`; on a terminal cut at its edge, after an indent."""
    width = max(len(recorded.type), 20)
    room = min(max(edge() - indent - width - 11, 8), SUMMARY_CHARACTERS) if is_terminal() else SUMMARY_CHARACTERS
    clock = time_text(recorded.at_us)[11:19]
    name = END_COLOURS.get(recorded.type) or CLASS_COLOURS.get(event_class(recorded.type))
    return f"{clock}  {colour(f'{recorded.type:<20}', name)} {plain(_summary(recorded), room)}".rstrip()


def _summary(recorded: Recorded) -> str:
    if recorded.data is None:
        # A clean empties events of these classes too, and does not say so in them.
        is_cleanable = event_class(recorded.type) in ("activity", "output")
        return "(redacted or cleaned)" if is_cleanable else "(redacted)"
    data: Any = msgspec.json.decode(with_heads(recorded.data) if b'"blob"' in recorded.data else recorded.data)
    if not isinstance(data, dict):
        return str(data)
    fields = cast("dict[str, Any]", data)
    if isinstance(fields.get("text"), str):
        return str(fields["text"])
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items() if key not in SKIPPED_FIELDS)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

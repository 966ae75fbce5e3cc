"""Print one telemetry line from a script: `python -m runfold.emit file_written path=a.py bytes=12`.

What the run around it would not take is told here, where somebody can put it right.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from runfold.events import EVENT_TYPES, TelemetryRejected
from runfold.observing import CHILD_TYPES
from runfold.telemetry import parse_line

DOLLARS = "cost_usd"
"""As the client takes it; what is kept is `cost_micros`."""
_NAMES = "say what the program did, as `file_written`, or with a name of its own in a-z, 0-9 and `_`"


class _Wrong(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("-"):
        print("usage: python -m runfold.emit TYPE [KEY=VALUE]...", file=sys.stderr)
        return 0 if given[:1] == ["--help"] else 2
    try:
        line = _line_of(given[0], given[1:])
    except _Wrong as wrong:
        print(f"error: {wrong.message}\n\nhint: {wrong.hint}", file=sys.stderr)
        return 2
    try:
        # One write, so that lines of programs that share the stream do not mix.
        print(line, end="", flush=True)
    except BrokenPipeError:
        # Nobody reads on, which is no failure of the script; the interpreter's own flush at the end must not tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def sentinel_line(event_type: str, fields: Mapping[str, Any]) -> str:
    """The line that a run takes as an event, in ASCII. Raises ValueError for numbers that JSON has not."""
    return json.dumps({"runfold": {"type": event_type, **fields}}, allow_nan=False) + "\n"


def _line_of(event_type: str, items: Sequence[str]) -> str:
    known = _kinds_of(event_type)
    fields: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key or key == "type":
            raise _Wrong(f"`{item}` is not KEY=VALUE", "write `path=a.py`")
        if known and key not in known:
            raise _Wrong(f"`{event_type}` has no field `{key}`", f"{_the(known)}; a type of your own takes any field")
        fields[key] = _value(text, known.get(key))
    if known and DOLLARS in fields:
        if "cost_micros" in fields:
            raise _Wrong(f"`{DOLLARS}` and `cost_micros` are the same", "give one of them")
        fields["cost_micros"] = _micros(fields.pop(DOLLARS))
    line = sentinel_line(event_type, fields)
    told = parse_line(line)
    if isinstance(told, TelemetryRejected):
        raise _Wrong(f"no run takes this `{event_type}`: {told.reason}", _the(known) or _NAMES)
    return line


def _kinds_of(event_type: str) -> dict[str, Any]:
    """The fields of a type of the vocabulary and what they hold; none of a type of the program's own."""
    if event_type not in CHILD_TYPES:
        return {}
    kinds = {field.name: field.type for field in msgspec.structs.fields(EVENT_TYPES[event_type])}
    del kinds["source"]
    return {**kinds, DOLLARS: float} if "cost_micros" in kinds else kinds


def _the(known: Mapping[str, Any]) -> str:
    return f"its fields are {', '.join(known)}" if known else ""


def _value(text: str, kind: Any) -> Any:
    """JSON where the text is JSON and the field may hold it, else the text itself."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    # `path=12` names a file, whatever JSON makes of it.
    is_text = kind is str or (kind == str | None and value is not None)
    return text if is_text and not isinstance(value, str) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _micros(dollars: Any) -> int | None:
    if dollars is None:
        return None
    try:
        if isinstance(dollars, int | float) and not isinstance(dollars, bool):
            return round(dollars * 1_000_000)
    except OverflowError:
        pass
    raise _Wrong(f"`{DOLLARS}` is not a number of dollars", f"write `{DOLLARS}=0.5`")


if __name__ == "__main__":
    sys.exit(main())

"""Print one telemetry line from a script: `python -m runfold.emit file_written path=a.py bytes=12`.

Standard library only, so that it starts fast.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

LINE_BYTES_MAX = 64 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0].startswith("-"):
        print("usage: python -m runfold.emit TYPE [KEY=VALUE]...", file=sys.stderr)
        return 0 if given[:1] == ["--help"] else 2
    fields: dict[str, Any] = {}
    for item in given[1:]:
        key, equals, text = item.partition("=")
        if not equals or not key or key == "type":
            print(f"error: `{item}` is not KEY=VALUE\n\nhint: write `path=a.py`", file=sys.stderr)
            return 2
        fields[key] = parse_value(text)
    line = sentinel_line(given[0], fields)
    if len(line) > LINE_BYTES_MAX:
        print(
            f"error: the line is longer than {LINE_BYTES_MAX} bytes\n\nhint: write a file and name it", file=sys.stderr
        )
        return 2
    # One write, so that lines of programs that share the stream do not mix.
    sys.stdout.write(line)
    sys.stdout.flush()
    return 0


def sentinel_line(event_type: str, fields: dict[str, Any]) -> str:
    """The line, ASCII only, so that every terminal and pipe carries it unchanged."""
    return json.dumps({"runfold": {"type": event_type, **fields}}, allow_nan=False) + "\n"


def parse_value(text: str) -> Any:
    """JSON where the text is JSON, else the text itself."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


if __name__ == "__main__":
    sys.exit(main())

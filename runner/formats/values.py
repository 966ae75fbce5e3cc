"""Reads what it can from JSON that nobody has promised, and cuts what is too large for an event."""

from typing import Any, TypeAlias, cast

import msgspec

from runfold.amounts import AMOUNT_MAX
from runfold.events import Json
from runfold.telemetry import DEPTH_MAX, is_deeper

LINE_BYTES_MAX = 8 * 1024 * 1024  # A whole file stands in the line that writes it.
TEXT_BYTES_MAX = 32 * 1024  # Half of what an event can hold.
JSON_BYTES_MAX = 16 * 1024
RESULT_BYTES_MAX = 8 * 1024
TAIL_BYTES_MAX = 2 * 1024
NAME_CHARACTERS_MAX = 256
_INDENT_MAX = 64

DONE = "completed"

Object: TypeAlias = dict[str, Any]
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def parse_object(line: str | bytes) -> Object | None:
    """The JSON object that a line is; None for every other line, and for one too large or too deep to be honest."""
    content = line.encode("utf-8", "replace") if isinstance(line, str) else line
    if len(content) > LINE_BYTES_MAX or content[:_INDENT_MAX].lstrip()[:1] != b"{":
        return None
    try:
        value = _decoded(content)
        # Counting brackets is much cheaper than walking, and most lines have few.
        if content.count(b"{") + content.count(b"[") > DEPTH_MAX and is_deeper(value, DEPTH_MAX):
            return None
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    return object_of(value)


def _decoded(content: bytes) -> Any:
    try:
        return _decode(content)
    except UnicodeDecodeError:
        # Half a character, or a byte that is none, is no reason to lose the line.
        return _decode(content.decode("utf-8", "replace"))


def object_of(value: Any) -> Object:
    return cast(Object, value) if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def name_of(value: Any) -> str:
    """A short text: an id, a tool, a status."""
    return text_of(value)[:NAME_CHARACTERS_MAX]


def status_of(value: Any) -> str:
    """A tool's status; `completed` where it says nothing else."""
    said = name_of(value)
    # The default itself, and not its equal, is what is left out of the stored JSON.
    return DONE if said in ("", DONE) else said


def count_of(value: Any) -> int:
    """A whole number from 0 to AMOUNT_MAX; anything else is 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= AMOUNT_MAX else 0


def exit_code_of(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**32 else None


def micros_of(dollars: Any) -> int | None:
    """Dollars as millionths; None where there is no sane amount."""
    if isinstance(dollars, bool) or not isinstance(dollars, int | float):
        return None
    return round(dollars * 1_000_000) if 0 <= dollars <= 1_000_000 else None


def content_text(content: Any) -> str:
    """A tool's content: a text, or blocks of which the ones with text are joined."""
    if isinstance(content, str):
        return content
    return "\n".join(filter(None, (text_of(object_of(block).get("text")) for block in list_of(content))))


def clip(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """The beginning of a text, as much as fits into so many bytes of JSON; the mark tells what is missing."""
    kept = _fitting(text, bytes_max)
    return text if kept == len(text) else f"{text[:kept]}… [{len(text) - kept} characters more]"


def tail(text: str, bytes_max: int = TAIL_BYTES_MAX) -> str:
    """The end of a text, as much as fits into so many bytes of JSON."""
    end = text[-bytes_max:]
    return end[len(end) - _fitting(end[::-1], bytes_max) :]


def bounded(value: Any, bytes_max: int = JSON_BYTES_MAX) -> Json:
    """The value where it fits, else the beginning of its JSON as text; None where it cannot be stored."""
    if isinstance(value, str):
        return clip(value, bytes_max)
    try:
        encoded = _encode(value)
    except (msgspec.MsgspecError, OverflowError, RecursionError, ValueError):
        return None
    return value if len(encoded) <= bytes_max else clip(encoded.decode(), bytes_max)


def _fitting(text: str, bytes_max: int) -> int:
    """How many of the first characters fit. A character takes at most six bytes of JSON, and at least one."""
    if len(text) * 6 <= bytes_max:
        return len(text)
    kept = min(len(text), bytes_max)
    while (size := len(_encode(text[:kept]))) > bytes_max:
        kept = min(kept - 1, kept * bytes_max // size)
    return kept

"""A line that a program prints about its run, as an event; every other line is None, quickly."""

import re
from typing import Any

import msgspec

from runfold.amounts import check_amounts
from runfold.errors import InvalidEvent
from runfold.events import EVENT_TYPES, Event, Telemetry, TelemetryRejected, Unknown, decode_data, encode_data
from runfold.observing import CHILD_TYPES

LINE_BYTES_MAX = 64 * 1024  # The log takes no larger event either.
SAMPLE_CHARACTERS_MAX = 200
SOURCE = "sentinel"
DEPTH_MAX = 64  # Readers with a deep stack of their own must still be able to decode it.

_SENTINEL = re.compile(r"\s{0,64}\{\s{0,8}\"(?:runfold|__cody_event__)\"\s{0,8}:")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_NAME_CHARACTERS_MAX = 64
_wrapped = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Head(msgspec.Struct):
    type: str


_head = msgspec.json.Decoder(_Head)


def parse_line(line: str) -> tuple[Event | Unknown, ...] | TelemetryRejected | None:
    """The events of a sentinel line; TelemetryRejected for one that says what it may not, or says it wrongly."""
    if _SENTINEL.match(line) is None:
        return None
    if len(line) > LINE_BYTES_MAX or len(line.encode("utf-8", "replace")) > LINE_BYTES_MAX:
        return _reject(f"the line is longer than {LINE_BYTES_MAX} bytes", line)
    try:
        event = _parse(line)
        encode_data(event)
    except InvalidEvent as error:
        return _reject(error.message, line)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        return _reject(f"not a JSON object of an event: {error}", line)
    return (event,)


def _parse(line: str) -> Event:
    wrapped = _wrapped.decode(line)
    if len(wrapped) != 1:
        raise InvalidEvent("the line holds more than the one key")
    (inner,) = (bytes(value) for value in wrapped.values())
    name = _head.decode(inner).type
    if len(name) > _NAME_CHARACTERS_MAX or _NAME.fullmatch(name) is None:
        raise InvalidEvent("the type is not a snake_case name")
    if name in EVENT_TYPES and name not in CHILD_TYPES:
        raise InvalidEvent(f"`{name}` is not a program's to say")
    data = msgspec.json.decode(inner)
    if is_deeper(data, DEPTH_MAX):
        raise InvalidEvent(f"it is nested deeper than {DEPTH_MAX}")
    event = decode_data(name, inner)
    if event is None or isinstance(event, Unknown):
        given = {key: value for key, value in data.items() if key != "type"}
        return Telemetry(name=name, data=given, source=SOURCE)
    check_amounts(event)
    # Whatever the line says about its source, it is this line.
    return msgspec.structs.replace(event, source=SOURCE)


def is_deeper(value: Any, levels: int) -> bool:
    """Whether decoded JSON is nested in more than so many levels of objects and lists."""
    children: list[Any]
    if isinstance(value, dict):
        children = list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    elif isinstance(value, list):
        children = value  # pyright: ignore[reportUnknownVariableType]
    else:
        return False
    return levels == 0 or any(is_deeper(child, levels - 1) for child in children)


def _reject(reason: str, line: str) -> TelemetryRejected:
    sample = line.strip()[:SAMPLE_CHARACTERS_MAX].encode("utf-8", "replace").decode()
    safe = reason[:SAMPLE_CHARACTERS_MAX].encode("utf-8", "replace").decode()
    return TelemetryRejected(reason=safe, sample=sample)

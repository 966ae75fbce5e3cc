"""Reading JSON that others wrote: every question has an answer of the asked type, whatever stands there."""

from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

from runfold.amounts import AMOUNT_MAX

Map: TypeAlias = dict[str, Any]

AT_US_MAX = 253_402_300_799_999_999  # The end of year 9999: what RFC 3339 can still write.
_MILLISECONDS_FROM = 10_000_000_000  # A larger number of seconds would be beyond the year 2286.
_MICROSECONDS_FROM = 10_000_000_000_000


def get(value: object, *path: str) -> object:
    """What stands at the end of the path; None where it breaks off."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = cast(Map, value).get(key)
    return value


def text(value: object, *path: str) -> str:
    """The text at the path; empty where there is none."""
    found = get(value, *path)
    return found if isinstance(found, str) else ""


def mapping(value: object, *path: str) -> Map:
    found = get(value, *path)
    return cast(Map, found) if isinstance(found, dict) else {}


def items(value: object, *path: str) -> list[object]:
    found = get(value, *path)
    return cast(list[object], found) if isinstance(found, list) else []


def count(value: object, *path: str) -> int:
    """A number from 0 to what an event may tell; 0 where there is none."""
    return counted(value, *path) or 0


def counted(value: object, *path: str, most: int = AMOUNT_MAX) -> int | None:
    """As `count`; None where there is no number."""
    found = get(value, *path)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 16:
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    if found != found or found in (float("inf"), float("-inf")):
        return None
    return min(max(int(found), 0), most)


def micros(dollars: object) -> int | None:
    """Dollars as whole millionths; None where no price stands there."""
    if isinstance(dollars, bool) or not isinstance(dollars, int | float):
        return None
    return counted(round(dollars * 1_000_000)) if 0 <= dollars < 1e9 else None


def milliseconds(seconds: object) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return counted(round(seconds * 1000)) if 0 <= seconds < 1e12 else None


def moment_us(value: object) -> int | None:
    """A time as microseconds since 1970: RFC 3339 text (without an offset it is UTC), or a number of s, ms or µs."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _numbered(value)
    if not isinstance(value, str) or not 10 <= len(value) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return _bounded((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds)


def _numbered(value: float) -> int | None:
    if not 0 < value < 1e18:
        return None
    if value < _MILLISECONDS_FROM:
        return _bounded(round(value * 1_000_000))
    return _bounded(round(value * 1000) if value < _MICROSECONDS_FROM else round(value))


def _bounded(us: int) -> int | None:
    return us if 0 <= us <= AT_US_MAX else None


def shorten(value: str, characters: int) -> str:
    """The first line, at most so many characters long."""
    first = next((line.strip() for line in value.splitlines() if line.strip()), "")
    return first if len(first) <= characters else first[: characters - 1] + "…"

"""Ages as people type them, `30d` or `12h`, and the moments that they mean."""

import re
import time

from runfold.envelope import A_MOMENT, moment_us, time_text
from runfold.errors import BadRequest

DAY_US = 86_400_000_000
_UNITS_US = {"d": DAY_US, "h": DAY_US // 24, "m": DAY_US // 1440, "s": 1_000_000}


def age_us(text: str) -> int | None:
    """`30d`, `12h`, `90m`, `5s` in microseconds; None where it is no age."""
    match = re.fullmatch(r"(\d{1,6})([dhms])", text, re.ASCII)
    return None if match is None else int(match[1]) * _UNITS_US[match[2]]


def checked_moment(name: str, text: str) -> str:
    """The same of what an option says. Raises BadRequest where it is no time."""
    found = moment(text)
    try:
        moment_us(found)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"`{name}` is `{ascii(text)[1:-1]}`; allowed: an age such as 7d, {A_MOMENT}",
            hint=f"change `{name}`, or leave it out",
        ) from None
    return found


def moment(text: str) -> str:
    """An age as the time so long ago; any other text as it is."""
    age = age_us(text)
    return text if age is None else time_text(time.time_ns() // 1_000 - age)

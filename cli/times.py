"""Ages as people type them, `30d` or `12h`, and the moments that they mean."""

import re
import time

from runfold.envelope import time_text

DAY_US = 86_400_000_000
_UNITS_US = {"d": DAY_US, "h": DAY_US // 24, "m": DAY_US // 1440, "s": 1_000_000}


def age_us(text: str) -> int | None:
    """`30d`, `12h`, `90m`, `5s` in microseconds; None where it is no age."""
    match = re.fullmatch(r"(\d{1,6})([dhms])", text, re.ASCII)
    return None if match is None else int(match[1]) * _UNITS_US[match[2]]


def moment(text: str) -> str:
    """An age as the time so long ago; any other text as it is."""
    age = age_us(text)
    return text if age is None else time_text(time.time_ns() // 1_000 - age)

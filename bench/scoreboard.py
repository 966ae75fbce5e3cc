"""What a bench has measured, each figure judged against its floor: one line a figure, and one table of them all.

A bench is a module with `measure() -> Iterator[Figure]`, which yields each figure as soon as it stands, and ends with

    if __name__ == "__main__":
        sys.exit(show(measure()))

so that `python -m bench.NAME` prints it, and `python -m bench NAME` also writes it into RESULTS.md.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

WORK_WIDTH = 52
T = TypeVar("T")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """`ratio` is to what is named in `beside`, measured in the same run. It is what is judged, else `value` is.

    `spread` is the least and the most of what is judged in the rounds; `floor` the least, `ceiling` the most allowed.
    """

    work: str
    value: float
    unit: str
    ratio: float | None = None
    beside: str = ""
    floor: float | None = None
    ceiling: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def judged(self) -> float:
        return self.value if self.ratio is None else self.ratio

    @property
    def is_missed(self) -> bool:
        is_low = self.floor is not None and self.judged < self.floor
        return is_low or (self.ceiling is not None and self.judged > self.ceiling)

    @property
    def verdict(self) -> str:
        if self.floor is None and self.ceiling is None:
            return ""
        return "MISSED" if self.is_missed else "ok"

    @property
    def bound(self) -> str:
        if self.floor is not None:
            return f"≥ {number(self.floor)}"
        return "" if self.ceiling is None else f"≤ {number(self.ceiling)}"

    @property
    def line(self) -> str:
        ratio = "" if self.ratio is None else f"{number(self.ratio)} of {self.beside}"
        spread = "" if self.spread is None else f"[{number(self.spread[0])} – {number(self.spread[1])}]"
        amount = f"{number(self.value):>11} {self.unit:<9}"
        return f"{self.work:<{WORK_WIDTH}}{amount}  {ratio:<34} {spread:<20} {self.bound:<10} {self.verdict}".rstrip()


def figure(
    work: str, unit: str, rounds: Sequence[float], *, floor: float | None = None, ceiling: float | None = None
) -> Figure:
    """The median of some rounds."""
    spread = (min(rounds), max(rounds))
    return Figure(
        work=work, value=statistics.median(rounds), unit=unit, floor=floor, ceiling=ceiling, spread=spread
    )  # fmt: skip


def compared(
    work: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    beside: str,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Figure:
    """The median of some rounds, and of the ratios of those that stood next to each other: a busy machine slows both.

    Give rates where a `floor` judges them, and times where a `ceiling` does.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Figure(
        work=work,
        value=statistics.median(ours),
        unit=unit,
        ratio=statistics.median(ratios),
        beside=beside,
        floor=floor,
        ceiling=ceiling,
        spread=(min(ratios), max(ratios)),
    )


def interleaved(rounds: int, works: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each piece of work gave in each round; the pieces of one round run one after the other."""
    given: dict[str, list[T]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            given[name].append(work())
    return given


def percentile(waits: Sequence[float], share: float) -> float:
    ordered = sorted(waits)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def number(value: float) -> str:
    """Three digits that count; whole from a hundred on."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def show(figures: Iterable[Figure]) -> int:
    """Print the figures as they come; the exit status is 1 where one missed its floor."""
    missed = 0
    for it in figures:
        print(it.line, flush=True)
        missed += it.is_missed
    return 1 if missed else 0

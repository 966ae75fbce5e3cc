"""What two runs did differently: where they part, and what each then made, took and cost."""

from collections.abc import Callable, Iterable
from itertools import zip_longest

import msgspec

from runfold.envelope import Recorded
from runfold.errors import InvalidEvent
from runfold.events import (
    Event,
    FileDeleted,
    FileWritten,
    Unknown,
    event_class,
    event_type,
)
from runfold.evolve import evolve_recorded
from runfold.report import duration_us, usd
from runfold.state import Run, new_run
from runfold.step_states import PENDING

DEEDS_MAX = 100_000  # Beyond, two runs count as alike as far as their paths are compared.
FILES_MAX = 10_000
TEXT_CHARACTERS_MAX = 200
_SAID = (
    *("step", "unit", "attempt", "action", "strategy", "path", "tool", "command", "text", "name", "key"),
    *("reason_code", "exit_code", "status", "limit", "scope", "total"),
)
"""What makes a deed the same in two runs; ids, times, hosts, sizes and costs differ in any two."""
_NOISE = frozenset({"run_claimed", "claim_released", "claim_lost", "run_requeued", "telemetry", "log_updated"})
_CLASSES = frozenset({"lifecycle", "activity"})


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """An event in one line; `version` is its place in its run."""

    version: int
    type: str
    text: str


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first deed that is not the other's; null where that run has no more. `after` counts those alike."""

    after: int
    a: Deed | None
    b: Deed | None


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of both; `change` is what b has more, where both are known."""

    a: float | None
    b: float | None
    change: float | None


class Words(msgspec.Struct, frozen=True, kw_only=True):
    a: str
    b: str


class StepDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A step that ended otherwise, or that only one of them has."""

    step: str
    status: Words
    attempts: Sides
    duration_ms: Sides
    cost_usd: Sides


class FileDifference(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    change: str
    """`only_a`, `only_b`, or `content` where both wrote it and its last size or digest differs."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    a: str
    b: str
    divergence: Divergence | None
    status: Words
    reason: Words
    message: Words
    steps: tuple[StepDifference, ...]
    files: tuple[FileDifference, ...]
    cost_usd: Sides
    duration_ms: Sides
    tokens: Sides
    turns: Sides


class Side:
    """One run on its way through its events, in order, as far as the moment at which it is looked at."""

    def __init__(self, run_id: str, holds: Callable[[Recorded], bool] = lambda _: True) -> None:
        """`holds`: whether an event had happened at that moment."""
        self._holds = holds
        self.run: Run = new_run(run_id)
        self.deeds: list[Deed] = []
        self.files: dict[str, tuple[int | None, str | None]] = {}

    def add(self, events: Iterable[Recorded]) -> None:
        for recorded in filter(self._holds, events):
            self.run = evolve_recorded(self.run, recorded)
            if event_class(recorded.type) not in _CLASSES or recorded.type in _NOISE:
                continue
            try:
                event = recorded.event()
            except InvalidEvent:
                event = None
            if event is None:
                continue
            self._keep_file(event)
            if len(self.deeds) < DEEDS_MAX:
                self.deeds.append(Deed(version=recorded.version, type=recorded.type, text=_line(event)))

    def _keep_file(self, event: Event | Unknown) -> None:
        if isinstance(event, FileWritten) and (event.path in self.files or len(self.files) < FILES_MAX):
            self.files[event.path] = (event.bytes, event.sha256)
        elif isinstance(event, FileDeleted):
            self.files.pop(event.path, None)


def difference(a: Side, b: Side) -> Difference:
    """The same events give the same answer."""
    return Difference(
        a=a.run.run_id,
        b=b.run.run_id,
        divergence=_divergence(a.deeds, b.deeds),
        status=Words(a=a.run.status or "", b=b.run.status or ""),
        reason=Words(a=a.run.reason_code, b=b.run.reason_code),
        message=Words(a=a.run.message, b=b.run.message),
        steps=_steps(a.run, b.run),
        files=_files(a, b),
        cost_usd=_sides(usd(a.run.cost_micros), usd(b.run.cost_micros)),
        duration_ms=_sides(_ms(a.run), _ms(b.run)),
        tokens=_sides(a.run.tokens.total, b.run.tokens.total),
        turns=_sides(a.run.turns, b.run.turns),
    )


def _divergence(a: list[Deed], b: list[Deed]) -> Divergence | None:
    for number, (mine, other) in enumerate(zip_longest(a, b)):
        if mine is None or other is None or (mine.type, mine.text) != (other.type, other.text):
            return Divergence(after=number, a=mine, b=other)
    return None


def _steps(a: Run, b: Run) -> tuple[StepDifference, ...]:
    names = dict.fromkeys([*(it.id for it in a.steps), *(it.id for it in b.steps), *a.step_states, *b.step_states])
    found: list[StepDifference] = []
    for name in names:
        mine, other = a.step_states.get(name, PENDING), b.step_states.get(name, PENDING)
        status = Words(a=mine.status if _has(a, name) else "", b=other.status if _has(b, name) else "")
        if status.a == status.b and mine.attempt == other.attempt:
            continue
        found.append(
            StepDifference(
                step=name,
                status=status,
                attempts=_sides(mine.attempt, other.attempt),
                duration_ms=_sides(mine.duration_ms, other.duration_ms),
                cost_usd=_sides(usd(mine.cost_micros), usd(other.cost_micros)),
            )
        )
    return tuple(found)


def _has(run: Run, step: str) -> bool:
    return step in run.step_states or any(spec.id == step for spec in run.steps)


def _files(a: Side, b: Side) -> tuple[FileDifference, ...]:
    found: list[FileDifference] = []
    for path in sorted(a.files.keys() | b.files.keys()):
        if path not in b.files:
            found.append(FileDifference(path=path, change="only_a"))
        elif path not in a.files:
            found.append(FileDifference(path=path, change="only_b"))
        elif _is_changed(a.files[path], b.files[path]):
            found.append(FileDifference(path=path, change="content"))
    return tuple(found)


def _is_changed(a: tuple[int | None, str | None], b: tuple[int | None, str | None]) -> bool:
    """What one of them does not say is no difference."""
    return any(mine != other for mine, other in zip(a, b, strict=True) if mine is not None and other is not None)


def _line(event: Event | Unknown) -> str:
    parts: list[str] = []
    for name in _SAID:
        value = getattr(event, name, None)
        if value not in (None, "", ()):
            parts.append(f"{name}={' '.join(str(value).split())[:TEXT_CHARACTERS_MAX]}")
    return " ".join([event_type(event), *parts])


def _sides(a: float | None, b: float | None) -> Sides:
    change = None if a is None or b is None else round(b - a, 6)
    return Sides(a=a, b=b, change=change)


def _ms(run: Run) -> int | None:
    took = duration_us(run)
    return None if took is None else took // 1_000

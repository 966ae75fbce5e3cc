"""Events given to the folds that want them, decoded once for all; one that breaks stops its own view and no other."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, Fold, View
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.errors import InvalidEvent
from runfold.events import DATA_ERRORS, Event, Unknown, decoder_of

Folds: TypeAlias = Mapping[str, tuple[View, Fold]]
_Takers: TypeAlias = tuple[
    list[tuple[str, Callable[[sqlite3.Connection, Fact, Decoded], None]]], Callable[[bytes], Event | Unknown] | None
]
"""Who takes a type of event, and how its data is read where one of them does."""


class Parked(msgspec.Struct, frozen=True):
    """A fold refused an event: its view stands after position `last`."""

    last: int
    error: str


class Folding:
    """Folds of several views on their way through the log, inside one transaction of the caller."""

    def __init__(self, connection: sqlite3.Connection, folds: Folds, *, is_skipped: Callable[[str, int], bool]) -> None:
        """`is_skipped`: whether a person let this view leave out the event at that position."""
        self._connection = connection
        self._is_skipped = is_skipped
        self.folds = dict(folds)
        """Those that go on."""
        self.parked: dict[str, Parked] = {}
        # By type; of runs, and of the system stream.
        self._takers: tuple[dict[str, _Takers], dict[str, _Takers]] = ({}, {})

    def fold(self, facts: Iterable[Fact], *, after: int) -> None:
        """Take the next events; `after` is the position where the folds stand."""
        connection, last = self._connection, after
        of_runs, of_system = self._takers
        for fact in facts:
            takers = of_runs if fact.run_id != SYSTEM_STREAM else of_system
            known = takers.get(fact.type)
            if known is None:
                known = takers[fact.type] = _takers(self.folds, fact.type, is_system=takers is of_system)
            applies, decode = known
            event: Decoded = None
            if decode is not None and (data := fact.data) is not None:
                try:
                    event = decode(data)
                except DATA_ERRORS:
                    event = _shortened(fact)
            for name, apply in applies:
                try:
                    apply(connection, fact, event)
                except sqlite3.Error:
                    raise
                except Exception as error:  # Whatever a fold raises stops its own view only.
                    if not self._is_skipped(name, fact.position):
                        self.park(
                            name, last, f"event {fact.position} of `{fact.run_id}`: {type(error).__name__}: {error}"
                        )
                        of_runs, of_system = self._takers
            last = fact.position

    def park(self, name: str, last: int, error: str) -> None:
        self.parked[name] = Parked(last, error)
        del self.folds[name]
        self._takers = ({}, {})


def _takers(folds: Folds, type_name: str, *, is_system: bool) -> _Takers:
    wanted = [(view, fold) for view, fold in folds.values() if view.wants(type_name) and (view.system or not is_system)]
    is_read = any(view.reads(type_name) for view, _ in wanted)
    return [(view.name, fold.apply) for view, fold in wanted], decoder_of(type_name) if is_read else None


def _shortened(fact: Fact) -> Decoded:
    """Data that is not as its type has it: the beginning of a text stored apart, or nothing that can be read."""
    try:
        return fact.event()
    except InvalidEvent:
        return None

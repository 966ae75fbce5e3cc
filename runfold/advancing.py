"""A run on its way through many events: `evolve`, for who holds the run alone and may change it in place."""

from collections.abc import Sequence
from copy import copy
from types import NoneType

from msgspec.structs import force_setattr

from runfold.counting import COUNTS
from runfold.events import EVENT_TYPES, Event, Unknown
from runfold.evolve import CHANGING_NOTHING, evolve
from runfold.state import Run

_QUIET = frozenset({NoneType, *(EVENT_TYPES[name] for name in CHANGING_NOTHING)})


class Advancing:
    """Gives the run that `evolve` gives of one event after the other, and changes the one that it was given.

    Most events only count: the run hears what they count, and not before it is asked for how many there were, and when.
    """

    __slots__ = ("_last_at_us", "_run", "_untold", "position")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._untold = 0
        self._last_at_us = 0
        self.position = 0
        """Where the last event stands in the log, for who notes it here."""

    def take(self, event: Event | Unknown | None, at_us: int) -> None:
        """The next event; None is one whose data was redacted, or that changes nothing."""
        kind = type(event)
        if kind not in _QUIET:
            counts = COUNTS.get(kind)
            if counts is None:
                self._run = evolve(self.run(), event, at_us=at_us)
                return
            for name, value in counts(self._run, event).items():
                force_setattr(self._run, name, value)
        self._untold += 1
        if at_us > self._last_at_us:
            self._last_at_us = at_us

    def run(self) -> Run:
        """The run after all of these; the next event may change it."""
        run = self._run
        if self._untold:
            force_setattr(run, "version", run.version + self._untold)
            force_setattr(run, "updated_at_us", max(run.updated_at_us, self._last_at_us))
            self._untold = 0
        return run


def advance_all(run: Run, events: Sequence[Event | Unknown | None], ats_us: Sequence[int]) -> Run:
    """The run after all of these, as `evolve` makes it of one after the other; `run` itself stays as it is."""
    advancing = Advancing(copy(run))
    for event, at_us in zip(events, ats_us, strict=True):
        advancing.take(event, at_us)
    return advancing.run()

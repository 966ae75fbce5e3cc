"""Who waits for an append is answered in time, whatever becomes of the connection: by its outcome, or Unavailable."""

import asyncio
from collections.abc import Callable

from eventstore.contract import Appended, Done
from eventstore.jetstream.mirroring import AGAIN, PATIENCE_SECONDS
from runfold.errors import RunfoldError, Unavailable

APPEND_SECONDS_MAX = PATIENCE_SECONDS + 5.0  # Of which the last tell more exactly what the servers did not do.


class Patient:
    """Calls `done` with the first outcome; `given_up` when time has passed and there is none."""

    __slots__ = ("_done", "_given_up", "_patience")

    def __init__(self, done: Done, *, given_up: Callable[["Patient"], object]) -> None:
        self._done: Done | None = done
        self._given_up = given_up
        self._patience = asyncio.get_running_loop().call_later(APPEND_SECONDS_MAX, self._give_up)

    def __call__(self, outcome: Appended | RunfoldError) -> None:
        done, self._done = self._done, None
        self._patience.cancel()
        if done is not None:
            done(outcome)

    def _give_up(self) -> None:
        self._given_up(self)
        self(ungranted())


def ungranted() -> Unavailable:
    """Nobody knows whether the append was taken: the same ids tell."""
    return Unavailable("the replicated log did not say whether it has taken an append", hint=AGAIN)

"""The trace of refused commands: at most one event per run, command type and minute, and never at the caller's cost."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from eventstore.contract import EventLog
from eventstore.wishes import Wish
from runfold.envelope import SYSTEM_STREAM, NewEvent, derived_id
from runfold.errors import Conflict, RunfoldError
from runfold.events import CommandRefused, encode_data, event_type, snake_case
from runfold.state import Run

REMEMBERED_MAX = 4096
TRIES = 5
_MINUTE_US = 60_000_000
_NAMESPACE = "9f0a3c1e-52b1-5c38-9a4e-0d6c1f7b2a10"


class Refusals:
    """Who was refused what, remembered for as long as another trace would be one too many."""

    def __init__(self, log: EventLog, now_us: Callable[[], int]) -> None:
        self._log = log
        self._now_us = now_us
        self._minutes: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def record(self, run: Run, position: int, wish: Wish, error: RunfoldError) -> None:
        """Leave `command_refused` on the run's stream, or on the system's where the run is final."""
        now_us = self._now_us()
        refused, minute = snake_case(type(wish.command).__name__), now_us // _MINUTE_US
        key = (wish.run_id, refused)
        if self._minutes.get(key) == minute:
            return
        self._minutes[key] = minute
        self._minutes.move_to_end(key)
        if len(self._minutes) > REMEMBERED_MAX:
            self._minutes.popitem(last=False)
        event = CommandRefused(run_id=wish.run_id, refused=refused, code=error.code, reason=error.message)
        new = NewEvent(
            # The same id in every process: the log itself keeps the second trace of a minute out.
            id=derived_id(_NAMESPACE, f"{wish.run_id} {refused} {minute}"),
            type=event_type(event),
            data=encode_data(event),
            at_us=now_us,
            tenant=wish.tenant,
            actor=wish.actor,
        )
        # A trace that cannot be left must not change the answer.
        with suppress(RunfoldError):
            await self._append(SYSTEM_STREAM if run.is_final else wish.run_id, new, position)

    async def _append(self, stream: str, event: NewEvent, position: int) -> None:
        if stream == SYSTEM_STREAM:
            position = 0
        for _ in range(TRIES):
            try:
                await self._log.append(stream, [event], expected=position)
                return
            except Conflict as conflict:
                position = conflict.actual

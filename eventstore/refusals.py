"""The trace of refused commands and late events: one event per run, kind and minute, and never at the caller's cost.

What is refused again within a minute is counted, and the next trace of the same kind says how often it was since.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable

import msgspec

from eventstore.contract import EventLog
from eventstore.wishes import Wish
from runfold.commands import Observe
from runfold.envelope import SYSTEM_STREAM, NewEvent, derived_id
from runfold.errors import Conflict, RunfoldError
from runfold.events import CommandRefused, LateEventRejected, Unknown, encode_data, event_type, snake_case
from runfold.state import Run

REMEMBERED_MAX = 4096
TRIES = 5
_MINUTE_US = 60_000_000
_NAMESPACE = "9f0a3c1e-52b1-5c38-9a4e-0d6c1f7b2a10"


class _Trace(msgspec.Struct):
    """The minute of the last trace of a kind, and how many refusals none has told of yet."""

    minute: int = -1
    untold: int = 0


class Refusals:
    """Who was refused what, remembered for as long as another trace would be one too many."""

    def __init__(self, log: EventLog, now_us: Callable[[], int]) -> None:
        self._log = log
        self._now_us = now_us
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._system_position = 0

    async def record(self, run: Run, position: int, wish: Wish, error: RunfoldError) -> None:
        """Leave `command_refused` or `late_event_rejected` on the run's stream, on the system's where it is final."""
        now_us = self._now_us()
        for event in _refused(run, wish, error):
            kind = event.refused if isinstance(event, CommandRefused) else event.event_type
            name = f"{wish.run_id} {event_type(event)} {kind}"
            trace = self._trace(name)
            trace.untold += event.count
            minute = now_us // _MINUTE_US
            if trace.minute == minute:
                continue
            trace.minute = minute
            event = msgspec.structs.replace(event, count=trace.untold)
            new = NewEvent(
                # The same id in every process: the log itself keeps the second trace of a minute out.
                id=derived_id(_NAMESPACE, f"{name} {minute}"),
                type=event_type(event),
                data=encode_data(event),
                at_us=now_us,
                tenant=wish.tenant,
                actor=wish.actor,
            )
            if await self._append(SYSTEM_STREAM if run.is_final else wish.run_id, new, position):
                trace.untold -= event.count

    def _trace(self, name: str) -> _Trace:
        trace = self._traces.setdefault(name, _Trace())
        self._traces.move_to_end(name)
        if len(self._traces) > REMEMBERED_MAX:
            self._traces.popitem(last=False)
        return trace

    async def _append(self, stream: str, event: NewEvent, position: int) -> bool:
        """Whether the trace was left; a trace that cannot be left must not change the answer."""
        if stream == SYSTEM_STREAM:
            position = self._system_position
        for _ in range(TRIES):
            try:
                appended = await self._log.append(stream, [event], expected=position)
            except Conflict as conflict:
                position = conflict.actual
            except RunfoldError:
                return False
            else:
                if stream == SYSTEM_STREAM:
                    self._system_position = appended.last
                return not appended.duplicate
        return False


def _refused(run: Run, wish: Wish, error: RunfoldError) -> list[CommandRefused | LateEventRejected]:
    if run.is_final and isinstance(wish.command, Observe):
        # Names that nobody knows are one kind: whoever makes them up must not make the log grow with them.
        kinds = Counter("unknown" if isinstance(event, Unknown) else event_type(event) for event in wish.observed)
        return [
            LateEventRejected(run_id=wish.run_id, event_type=kind, reason=error.message, count=count)
            for kind, count in kinds.items()
        ]
    refused = snake_case(type(wish.command).__name__)
    return [CommandRefused(run_id=wish.run_id, refused=refused, code=error.code, reason=error.message)]

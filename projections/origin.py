"""What a retry is made of: the order that opened a run, and what its steps last completed with, from the log."""

from collections.abc import Sequence

import msgspec

from eventstore.contract import EventLog
from runfold.envelope import Recorded
from runfold.errors import NotAllowed
from runfold.events import RunQueued, StepCompleted

_ENDS = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    order: RunQueued
    completed: dict[str, StepCompleted]
    ended_by: str | None
    """The id of the event that ended the run, or let it rest: what a retry answers."""


async def origin_of(log: EventLog, run_id: str) -> Origin:
    """Raises NotAllowed where the order was redacted."""
    order: RunQueued | None = None
    completed: dict[str, StepCompleted] = {}
    ended_by: str | None = None
    async for page in log.read(stream=run_id):
        ended_by = next((it.id for it in reversed(page.events) if it.type in _ENDS), ended_by)
        found, more = _read(page.events)
        order = order or found
        completed |= more
    if order is None:
        raise NotAllowed(
            f"the order of run `{run_id}` can no longer be read", hint="start it again by hand", run_id=run_id
        )
    return Origin(order=order, completed=completed, ended_by=ended_by)


def _read(events: Sequence[Recorded]) -> tuple[RunQueued | None, dict[str, StepCompleted]]:
    order: RunQueued | None = None
    completed: dict[str, StepCompleted] = {}
    for recorded in events:
        if recorded.type in ("run_queued", "step_completed"):
            event = recorded.event()
            if isinstance(event, RunQueued):
                order = event
            elif isinstance(event, StepCompleted):
                completed[event.step] = event
    return order, completed

"""What the wishes of one run's callers become, in order, each on the state that the one before leaves."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from eventstore.contract import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX
from eventstore.line import Caller, Line
from eventstore.preparing import check_sizes
from eventstore.wishes import new_events, own_ids, unknown_run, with_causes
from runfold.advancing import advance_all
from runfold.causation import Causes
from runfold.commands import OpenReported, Queue, StartHere
from runfold.decide import decide
from runfold.envelope import NewEvent
from runfold.errors import RunfoldError
from runfold.events import decode_stored
from runfold.state import Run, new_run

OPENING = Queue | StartHere | OpenReported
Redact: TypeAlias = Callable[[list[bytes]], list[bytes]]
Apart: TypeAlias = dict[bytes, bytes | RunfoldError]
"""By data that is too long for an event: what is left of it once its texts are stored apart, or why they cannot be."""


class Decided(msgspec.Struct, frozen=True):
    """A caller's wish, the state before it, and what it adds; or the error that refuses it."""

    caller: Caller
    before: Run
    after: Run
    causes: Causes
    events: Sequence[NewEvent]
    size_bytes: int = 0
    refused: RunfoldError | None = None


class TextsTooLong(Exception):
    """These events have texts that have to be stored apart before it can be decided."""

    def __init__(self, events: Sequence[NewEvent]) -> None:
        self.events = events


def decide_in_order(
    line: Line, callers: Sequence[Caller], *, now_us: int, redact: Redact, apart: Apart | None
) -> list[Decided]:
    """What the callers' wishes become, each after the one before, as far as one append takes it.

    Asked again at the same time on the same state, it says the same. `apart`: None where no text can be stored apart.
    Raises TextsTooLong.
    """
    batch: list[Decided] = []
    run, causes, is_new, size, count = line.run, line.causes, line.position == 0, 0, 0
    for index, caller in enumerate(callers):
        decided = _decide(run, causes, caller, now_us, redact, apart)
        if not decided.events and not is_new and not caller.is_looked_up and own_ids(caller.wish):
            # Refused now, it may still have been granted before: the answer is then the first one.
            for doubtful in callers[index:]:
                doubtful.is_unsure = doubtful.is_unsure or bool(own_ids(doubtful.wish))
            break
        size += decided.size_bytes
        count += len(decided.events)
        if batch and (count > APPEND_EVENTS_MAX or size > APPEND_BYTES_MAX):
            break
        batch.append(decided)
        run, causes = decided.after, decided.causes
    return batch


def _decide(run: Run, causes: Causes, caller: Caller, now_us: int, redact: Redact, apart: Apart | None) -> Decided:
    wish = caller.wish
    try:
        if run.version and run.tenant != wish.tenant:
            raise unknown_run(wish.run_id)
        if run.version == 0:
            if not isinstance(wish.command, OPENING):
                raise unknown_run(wish.run_id)
            run = new_run(wish.run_id, wish.tenant)
        decided = decide(run, wish.command, now_us)
        news = new_events(wish, decided, now_us=now_us, redact=redact)
        size_bytes = sum([len(new.data) for new in news])
        # Mostly even all together are shorter than one may be.
        if size_bytes > EVENT_BYTES_MAX or len(news) > APPEND_EVENTS_MAX:
            if apart is not None:
                news = _without_long_texts(news, apart)
            sizes = [len(new.data) for new in news]
            check_sizes(wish.run_id, sizes)
            size_bytes = sum(sizes)
        events = [decode_stored(new.type, new.data) for new in news]
        made, after_causes = with_causes(wish, news, events, causes)
        after = advance_all(run, events, [new.at_us for new in news]) if news else run
    except RunfoldError as error:
        return Decided(caller, run, run, causes, (), 0, error)
    return Decided(caller, run, after, after_causes, made, size_bytes)


def _without_long_texts(events: Sequence[NewEvent], apart: Apart) -> list[NewEvent]:
    """The events with what is too long for them elsewhere; `sent` stays what the caller sent."""
    missing = [event for event in events if len(event.data) > EVENT_BYTES_MAX and event.data not in apart]
    if missing:
        raise TextsTooLong(missing)
    result: list[NewEvent] = []
    for event in events:
        content = apart.get(event.data, event.data)
        if isinstance(content, RunfoldError):
            raise content
        result.append(event if content is event.data else msgspec.structs.replace(event, data=content))
    return result

"""What the log knows of wishes that may be retries: each gets its original answer, or is told what differs."""

from collections.abc import Sequence
from typing import TypeAlias

from eventstore.appending import is_same, is_sent
from eventstore.contract import APPEND_EVENTS_MAX, EventLog
from eventstore.wishes import Wish, command_digest, new_events, own_ids, sent_digest, unknown_run
from runfold.commands import Observe
from runfold.envelope import Recorded
from runfold.errors import EventIdConflict, KeyReused, RunfoldError

Recalled: TypeAlias = tuple[Recorded, ...] | RunfoldError | None
"""The events of the original, or why this is no retry of it; None: the log does not know the wish."""


async def recall(log: EventLog, run_id: str, wishes: Sequence[Wish]) -> list[Recalled]:
    """What is known of each wish, in one lookup, or two where events are known by their ids alone."""
    # More ids than an append can have are no retry of anything.
    ids = [name for wish in wishes if len(own_ids(wish)) <= APPEND_EVENTS_MAX for name in own_ids(wish)]
    commands = [wish.command_id for wish in wishes]
    found = await log.find(run_id, ids=ids, commands=commands)
    by_id = {recorded.id: recorded for recorded in found}
    by_command = _by_command(found)
    others = {recorded.command for recorded in found if recorded.id in set(ids)} - {None, *commands}
    if others:
        by_command |= _by_command(await log.find(run_id, commands=[name for name in others if name is not None]))
    return [_recalled(wish, by_id, by_command) for wish in wishes]


def _recalled(wish: Wish, by_id: dict[str, Recorded], by_command: dict[str, tuple[Recorded, ...]]) -> Recalled:
    commanded = by_command.get(wish.command_id, ())
    present = tuple(by_id[name] for name in own_ids(wish) if name in by_id)
    if not commanded and not present:
        return None
    if (commanded or present)[0].tenant != wish.tenant:
        return unknown_run(wish.run_id)
    if commanded and not is_same_wish(wish, commanded):
        return KeyReused(
            f"that command id was used for something else on run `{wish.run_id}`",
            hint="take a new Idempotency-Key for a new wish",
            run_id=wish.run_id,
        )
    return commanded or _recalled_by_ids(wish, present, by_command)


def _recalled_by_ids(
    wish: Wish, present: tuple[Recorded, ...], by_command: dict[str, tuple[Recorded, ...]]
) -> tuple[Recorded, ...] | RunfoldError:
    """The original answer of events that come again without their command's id, be it in another batch."""
    original = by_command.get(present[0].command or "", ())
    if is_same_wish(wish, original):
        return original
    known = {recorded.id for recorded in present}
    for name in wish.ids + (None,) * (len(wish.observed) - len(wish.ids)):
        if name is None:
            return _changed(wish.run_id, present[0].id, "is known, and an event without an id was sent with it")
        if name not in known:
            return _changed(wish.run_id, name, "is new, though others sent with it are known")
    sent = {event.id: event for event in new_events(wish, wish.observed, now_us=0)}
    for recorded in present:
        if not is_same(recorded, sent[recorded.id]):
            return _changed(wish.run_id, recorded.id, "is known with other content")
    positions = [recorded.position for recorded in present]
    if positions != sorted(positions):
        return _changed(wish.run_id, present[0].id, "is known in another order")
    return present


def is_same_wish(wish: Wish, recordeds: Sequence[Recorded]) -> bool:
    """Whether these are the events that the wish was granted with; what was redacted counts as the same."""
    told = [recorded for recorded in recordeds if recorded.sent is not None]
    if not recordeds:
        return False
    if not isinstance(wish.command, Observe):
        return all(is_sent(recorded, command_digest(wish.command)) for recorded in told)
    given = zip(wish.ids, told, strict=False)
    times = zip(wish.ats_us, told, strict=False)
    return (
        len(told) == len(wish.observed)
        and all(is_sent(recorded, sent_digest(event)) for recorded, event in zip(told, wish.observed, strict=True))
        and all(identity in (None, recorded.id) for identity, recorded in given)
        and all(at_us in (None, recorded.at_us) for at_us, recorded in times)
    )


def _by_command(recordeds: Sequence[Recorded]) -> dict[str, tuple[Recorded, ...]]:
    lists: dict[str, list[Recorded]] = {}
    for recorded in recordeds:
        if recorded.command is not None:
            lists.setdefault(recorded.command, []).append(recorded)
    return {command: tuple(made) for command, made in lists.items()}


def _changed(run_id: str, identity: str, how: str) -> EventIdConflict:
    return EventIdConflict(
        f"event `{identity}` of run `{run_id}` {how}",
        hint="send the same events again as they were, or give new events new ids",
        run_id=run_id,
    )

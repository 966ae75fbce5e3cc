"""What made an event and what it made: the chain of causes up to its beginning, and the events that name it."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

import msgspec

from eventstore.contract import EventLog
from eventstore.reading import find, read_page
from eventstore.sqlite3_module import sqlite3
from projections.audit.answers import AuditItem, find_audit, item_of
from projections.audit.question import AuditFilter
from projections.audit.search import JOINS, SHOWN
from runfold.envelope import Recorded, time_text
from runfold.errors import BadRequest, Diverged, NotFound, Trimmed
from runfold.events import RunQueued, event_class

CAUSES_MAX = 100  # Of a loop of a thousand turns each follows from the one before.
_ID_CHARACTERS = frozenset("0123456789abcdefABCDEF-")

Asked: TypeAlias = tuple[str, str | int]
"""A run, and the id or the position of one of its events."""
Walk: TypeAlias = "Generator[Asked, Recorded | None, Chain]"


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """An event and its causes, the nearest first; `is_cut`: there are more than CAUSES_MAX."""

    event: Recorded
    causes: tuple[Recorded, ...]
    is_cut: bool


class Causation(msgspec.Struct, frozen=True, kw_only=True):
    """`causes`: the nearest first, up to the event that nothing made; `effects`: what names the event as its cause,
    in the order of the log, output left out."""

    event: AuditItem
    causes: list[AuditItem]
    causes_cut: bool
    effects: list[AuditItem]
    next_cursor: str | None


async def chain_of(log: EventLog, run_id: str, event: str) -> Chain:
    """Raises BadRequest, NotFound. `event`: its id, or its position."""
    walk = _Walk(_walk(run_id, event))
    while walk.asked is not None:
        walk.answer(await _lookup(log, *walk.asked))
    return walk.chain


def read_chain(connection: sqlite3.Connection, run_id: str, event: str) -> Chain:
    """The same from the log's file. Raises BadRequest, NotFound."""
    walk = _Walk(_walk(run_id, event))
    while walk.asked is not None:
        run, which = walk.asked
        found: Sequence[Recorded] = ()
        with suppress(Diverged, Trimmed):
            if isinstance(which, int):
                found = read_page(connection, after=which - 1, stream=run, upto=which).events
            else:
                found = find(connection, run, ids=(which,))
        walk.answer(found[0] if found else None)
    return walk.chain


def causation(
    connection: sqlite3.Connection, chain: Chain, *, tenant: str | None, limit: int, cursor: str | None = None
) -> Causation:
    """The chain as the audit tells it, with one page of effects."""
    effects = find_audit(
        connection, AuditFilter(tenant=tenant, cause=chain.event.id, order="asc", limit=limit, cursor=cursor)
    )
    items = _items(connection, (chain.event, *chain.causes))
    return Causation(
        event=items[0],
        causes=items[1:],
        causes_cut=chain.is_cut,
        effects=effects.items,
        next_cursor=effects.next_cursor,
    )


class _Walk:
    """What is asked next, of whoever can read the log: in this thread, or in another."""

    def __init__(self, steps: Walk) -> None:
        self._steps = steps
        self.asked: Asked | None = next(steps)
        self.chain: Chain

    def answer(self, found: Recorded | None) -> None:
        try:
            self.asked = self._steps.send(found)
        except StopIteration as end:
            self.asked, self.chain = None, end.value


def _walk(run_id: str, text: str) -> Walk:
    which = _which(text)
    event = yield run_id, which
    if event is None:
        raise NotFound(
            f"run `{run_id}` has no event `{text[:40]}`",
            hint=f"`runfold events {run_id}` lists its events with their positions",
            run_id=run_id,
        )
    causes: list[Recorded] = []
    last = event
    while last.cause is not None and len(causes) < CAUSES_MAX:
        found = yield last.run_id, last.cause
        if found is None and (other := _elsewhere(last)) is not None:
            found = yield other, last.cause
        if found is None:
            break  # It was trimmed.
        causes.append(found)
        last = found
    return Chain(event=event, causes=tuple(causes), is_cut=len(causes) == CAUSES_MAX and last.cause is not None)


def _which(text: str) -> str | int:
    if text.isascii() and text.isdigit() and len(text) <= 16:
        return int(text)
    if len(text) not in (32, 36) or not set(text) <= _ID_CHARACTERS:
        raise BadRequest(f"`{text[:40]}` names no event", hint="an event's id is a UUID; its position does as well")
    return text


def _elsewhere(recorded: Recorded) -> str | None:
    """The run that a first event answers, where that is another one."""
    event = recorded.event() if recorded.type == "run_queued" else None
    return (event.retry_of or event.parent_run_id) if isinstance(event, RunQueued) else None


async def _lookup(log: EventLog, run_id: str, which: str | int) -> Recorded | None:
    if isinstance(which, str):
        found = await log.find(run_id, ids=(which,))
        return found[0] if found else None
    with suppress(Diverged, Trimmed):
        async for page in log.read(after=which - 1, stream=run_id, upto=which):
            return page.events[0] if page.events else None
    return None


def _items(connection: sqlite3.Connection, recordeds: Iterable[Recorded]) -> list[AuditItem]:
    return [_item(connection, recorded) for recorded in recordeds]


def _item(connection: sqlite3.Connection, recorded: Recorded) -> AuditItem:
    row = connection.execute(f"{SHOWN} FROM audit a {JOINS} WHERE a.position = ?", (recorded.position,)).fetchone()
    if row is not None:
        return item_of(row, recorded)
    # Output is not in the audit.
    return AuditItem(
        position=recorded.position,
        run_id=recorded.run_id,
        tenant=recorded.tenant,
        workflow=None,
        type=recorded.type,
        event_class=event_class(recorded.type),
        actor=recorded.actor,
        path=None,
        text="",
        at=time_text(recorded.at_us),
        recorded_at=time_text(recorded.recorded_at_us),
        id=recorded.id,
        cause=recorded.cause,
        command=recorded.command,
    )

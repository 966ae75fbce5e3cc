"""Who did what when: every event but output, found and counted by actor, type, run, path, text, time and cause."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from eventstore.reading import read_at
from eventstore.sqlite3_module import sqlite3
from projections.audit.question import LIMIT_MAX, AuditFilter, bad
from projections.audit.search import Search
from projections.engine.opening import Folded
from runfold.envelope import Recorded, time_text
from runfold.events import event_class

TOTAL_MAX = 10_000  # Who finds more will not count them one by one, and counting millions keeps others waiting.
Group: TypeAlias = Literal["actor", "type", "class", "run_id", "workflow", "tenant", "path", "day"]
GROUPS: tuple[str, ...] = get_args(Group)


class AuditItem(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `run_id` is the run it is about, also where it stands on the system stream."""

    position: int
    run_id: str
    tenant: str
    workflow: str | None
    type: str
    event_class: str = msgspec.field(name="class")
    actor: str
    path: str | None
    text: str
    at: str
    recorded_at: str
    id: str
    cause: str | None
    command: str | None


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """`total` is null where more match than are counted; `next_cursor` is null on the last page."""

    items: list[AuditItem]
    total: int | None
    next_cursor: str | None


class AuditCount(msgspec.Struct, frozen=True, kw_only=True):
    key: str | None
    count: int


def find_audit(connection: sqlite3.Connection, wanted: AuditFilter) -> AuditList:
    """One page of the events that match. Raises BadRequest, naming the parameter and what is allowed; Damaged."""
    if wanted.order not in ("asc", "desc"):
        raise bad("order", wanted.order, "asc, desc")
    if not 1 <= wanted.limit <= LIMIT_MAX:
        raise bad("limit", wanted.limit, f"1 to {LIMIT_MAX}")
    search = Search(connection, wanted)
    total = search.count(TOTAL_MAX + 1)
    cursor = None if wanted.cursor is None else _position(wanted.cursor)
    rows = search.page(wanted.limit + 1, cursor=cursor)
    shown = rows[: wanted.limit]
    return AuditList(
        items=_items(connection, shown),
        total=total if total <= TOTAL_MAX else None,
        next_cursor=str(shown[-1][0]) if len(rows) > wanted.limit else None,
    )


def count_audit(connection: sqlite3.Connection, wanted: AuditFilter, *, by: str) -> list[AuditCount]:
    """How many events match, by one of GROUPS: the largest groups first, `limit` of them."""
    if by not in GROUPS:
        raise bad("by", by, f"one of {', '.join(GROUPS)}")
    # There are fewer types than LIMIT_MAX, so classes can be summed from them.
    rows = Search(connection, wanted).grouped(by, LIMIT_MAX if by == "class" else wanted.limit)
    if by == "class":
        sums: dict[str | None, int] = {}
        for name, count in rows:
            sums[event_class(name or "")] = sums.get(event_class(name or ""), 0) + count
        rows = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0] or ""))[: wanted.limit]
    return [AuditCount(key=key, count=count) for key, count in rows]


def _items(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> list[AuditItem]:
    """What the log does not keep any more is not shown, until the views have heard of it."""
    log = connection.log if isinstance(connection, Folded) else None
    if log is None:
        return []
    kept = read_at(log, [row[0] for row in rows])
    return [item_of(row, kept[row[0]]) for row in rows if row[0] in kept]


def item_of(row: tuple[Any, ...], recorded: Recorded) -> AuditItem:
    """A row of SHOWN, with its event."""
    position, run_id, workflow, tenant, kind, actor, path, text = row
    return AuditItem(
        position=position,
        run_id=run_id,
        tenant=tenant,
        workflow=workflow,
        type=kind,
        event_class=event_class(kind),
        actor=actor,
        path=path,
        text=text,
        at=time_text(recorded.at_us),
        recorded_at=time_text(recorded.recorded_at_us),
        id=recorded.id,
        cause=recorded.cause,
        command=recorded.command,
    )


def _position(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 16:
        raise bad("cursor", ascii(cursor)[1:-1], "the `next_cursor` of the page before")
    return int(cursor)

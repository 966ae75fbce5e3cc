"""What a waterfall asks of a run: a page of its spans, of a while and at a moment, and how busy the whole of it was.

A page is one bounded query however long the run is, for a waterfall needs none of the events between.
"""

from itertools import accumulate
from typing import Any, Literal, TypeAlias

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import time_text

PAGE_SPANS_MAX = 2_000  # A waterfall in one answer; more than a screen can show.
STEP_TURNS_MAX = 1_000  # More than a step is tried.
BUCKETS = 160  # Of an overview: as many as a narrow screen has room for.
END_OF_TIME = 2**62
Kind: TypeAlias = Literal["turn", "step", "tool", "command", "tests", "unit", "approval", "pause", "limit"]
KINDS: tuple[Kind, ...] = ("turn", "step", "tool", "command", "tests", "unit", "approval", "pause", "limit")
# What ended after the moment that is asked for still goes on there.
_ENDED_US = "CASE WHEN ended_position <= ?3 THEN max(ended_at_us, started_at_us) END"
_STATUS = "CASE WHEN ended_position <= ?3 THEN status ELSE 'running' END"
_OF_RUN = "FROM spans WHERE run_id = ?1 AND (?2 IS NULL OR tenant = ?2) AND position <= ?3"
_IS_BAD = "status IN ('failed', 'error', 'rejected', 'denied', 'expired', 'exceeded') OR status GLOB 'exit *'"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """`parent` is the `position` of the span it lies in; `ended_at` is null while it goes on.

    A limit is a moment: `name` says how much of what was used, `status` is `warned` or `exceeded`.
    """

    position: int
    kind: str
    key: str
    name: str
    attempt: int | None
    parent: int | None
    started_at: str
    ended_at: str | None
    duration_ms: int | None
    status: str


class SpanList(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which they began; `next_cursor` is the `after` of the next page, null on the last."""

    items: list[Span]
    total: int | None
    next_cursor: str | None


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind, by bucket: how many spans were `busy` in it, and how many came to a `bad` end in it."""

    kind: str
    spans: int
    busy: list[int]
    bad: list[int]


class StepTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn of a step, and where in the run's output its own begins, in bytes; None where it is not told (yet).

    `is_open`: it had not ended at the moment that was asked for.
    """

    position: int
    attempt: int
    is_open: bool
    output_offset: int | None
    output_bytes: int | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The time from the first start to the last that is known of, cut into equal buckets of `bucket_us`."""

    started_at: str | None
    ended_at: str | None
    bucket_us: int
    spans: int
    lanes: list[Lane]


def timeline(
    connection: sqlite3.Connection,
    run_id: str,
    *,
    tenant: str | None,
    kinds: tuple[Kind, ...] = (),
    at: int | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    changed_after: int = 0,
    after: int = 0,
    limit: int = PAGE_SPANS_MAX,
) -> SpanList:
    """A page of the run's spans as they were at position `at`, of those that touch the time from `since` to `until`.

    `changed_after` leaves out those that neither began nor ended after that position. None where the run is of
    another tenant.
    """
    wanted = kinds or KINDS
    rows = connection.execute(
        f"""SELECT position, kind, key, name, attempt, parent, started_at_us, {_ENDED_US} AS ended_us, {_STATUS}
        {_OF_RUN} AND position > ?4 AND started_at_us <= ?5 AND (ended_us IS NULL OR ended_us >= ?6)
        AND kind IN (SELECT value FROM json_each(?7)) AND (position > ?8 OR ended_position > ?8)
        ORDER BY position LIMIT ?9""",  # noqa: S608
        (
            run_id,
            tenant,
            END_OF_TIME if at is None else at,
            after,
            END_OF_TIME if until_us is None else until_us,
            since_us or 0,
            msgspec.json.encode(wanted).decode(),
            changed_after,
            limit + 1,
        ),
    ).fetchall()
    items = [_item(row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return SpanList(items=items, total=None, next_cursor=None if is_last else str(items[-1].position))


def step_turns(
    connection: sqlite3.Connection,
    run_id: str,
    step: str,
    *,
    tenant: str | None,
    attempt: int | None = None,
    at: int | None = None,
) -> list[StepTurn]:
    """The last turns of a step up to position `at`, in the order of its attempts, then in that of their starts."""
    rows = connection.execute(
        """SELECT turn.position, COALESCE(turn.attempt, 1), COALESCE(turn.ended_position > ?4, TRUE),
            turn.output_offset, turn.output_bytes
        FROM spans AS step JOIN spans AS turn ON turn.run_id = step.run_id AND turn.parent = step.position
        WHERE step.run_id = ?1 AND (?2 IS NULL OR step.tenant = ?2) AND step.kind = 'step' AND step.key = ?3
            AND turn.kind = 'turn' AND turn.position <= ?4 AND (?5 IS NULL OR turn.attempt = ?5)
        ORDER BY turn.position DESC LIMIT ?6""",
        (run_id, tenant, step, END_OF_TIME if at is None else at, attempt, STEP_TURNS_MAX),
    ).fetchall()
    turns = [
        StepTurn(position=position, attempt=of, is_open=bool(is_open), output_offset=offset, output_bytes=size)
        for position, of, is_open, offset, size in rows
    ]
    return sorted(turns, key=lambda turn: (turn.attempt, turn.position))


def overview(connection: sqlite3.Connection, run_id: str, *, tenant: str | None, at: int | None = None) -> Overview:
    """The whole of the run in so many buckets, as it was at position `at`; empty where it is of another tenant."""
    asked = (run_id, tenant, END_OF_TIME if at is None else at)
    first_us, last_us, count = connection.execute(
        f"SELECT min(started_at_us), max(COALESCE({_ENDED_US}, started_at_us)), count(*) {_OF_RUN}",
        asked,
    ).fetchone()
    if first_us is None:
        return Overview(started_at=None, ended_at=None, bucket_us=1, spans=0, lanes=[])
    bucket_us = (last_us - first_us) // BUCKETS + 1
    lanes: dict[str, Lane] = {}
    changes: dict[str, list[int]] = {}
    begun = connection.execute(
        f"SELECT kind, (started_at_us - ?4) / ?5, count(*) {_OF_RUN} GROUP BY 1, 2",
        (*asked, first_us, bucket_us),
    )
    for kind, bucket, spans in begun:
        lane = lanes.get(kind) or Lane(kind=kind, spans=0, busy=[], bad=[0] * BUCKETS)
        lanes[kind] = msgspec.structs.replace(lane, spans=lane.spans + spans)
        changes.setdefault(kind, [0] * (BUCKETS + 1))[bucket] += spans
    ended = connection.execute(
        f"""SELECT kind, ({_ENDED_US} - ?4) / ?5, count(*), sum({_IS_BAD}) {_OF_RUN} AND ended_position <= ?3
        GROUP BY 1, 2""",
        (*asked, first_us, bucket_us),
    )
    for kind, bucket, spans, bad in ended:
        changes[kind][bucket + 1] -= spans
        lanes[kind].bad[bucket] += bad
    return Overview(
        started_at=time_text(first_us),
        ended_at=time_text(last_us),
        bucket_us=bucket_us,
        spans=count,
        lanes=[
            msgspec.structs.replace(lanes[kind], busy=list(accumulate(changes[kind][:BUCKETS])))
            for kind in KINDS
            if kind in lanes
        ],
    )


def _item(row: tuple[Any, ...]) -> Span:
    position, kind, key, name, attempt, parent, started_at_us, ended_at_us, status = row
    return Span(
        position=position,
        kind=kind,
        key=key,
        name=name,
        attempt=attempt,
        parent=parent,
        started_at=time_text(started_at_us),
        ended_at=None if ended_at_us is None else time_text(ended_at_us),
        duration_ms=None if ended_at_us is None else (ended_at_us - started_at_us) // 1_000,
        status=status,
    )

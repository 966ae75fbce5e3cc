"""A run as spans: its turns, steps, tools, units, approvals and pauses with start, end and what they lie in.

A page of spans is one bounded query however long the run is, for a waterfall needs none of the events between.
"""

from typing import Any

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.view import Decoded, View
from runfold.envelope import Fact, time_text
from runfold.events import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    CommandExecuted,
    RunPaused,
    RunResumed,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    TestRunCompleted,
    ToolCalled,
    ToolReturned,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    UnitApproved,
    UnitFailed,
    UnitRejected,
    UnitStarted,
)

PAGE_SPANS_MAX = 2_000  # A waterfall in one answer; more than a screen can show.
OPEN_MAX = 500  # Of one run: whoever never ends what it begins must not be remembered for ever.
RUNS_HELD_MAX = 1_024
NAME_CHARS_MAX = 120
KINDS = ("turn", "step", "tool", "command", "tests", "unit", "approval", "pause")
_DDL = (
    """CREATE TABLE spans (
        run_id TEXT NOT NULL,
        position INTEGER NOT NULL, -- Of the event that began it.
        tenant TEXT NOT NULL,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER,
        parent INTEGER, -- The position of the span it lies in.
        started_at_us INTEGER NOT NULL,
        ended_at_us INTEGER, -- Null while it goes on.
        status TEXT NOT NULL,
        PRIMARY KEY (run_id, position)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX spans_open ON spans (run_id) WHERE ended_at_us IS NULL",
)
_RESTS = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """`parent` is the `position` of the span it lies in; `ended_at` is null while it goes on."""

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


def timeline(
    connection: sqlite3.Connection,
    run_id: str,
    *,
    tenant: str | None,
    kinds: tuple[str, ...] = (),
    after: int = 0,
    limit: int = PAGE_SPANS_MAX,
) -> SpanList:
    """A page of the run's spans; none where the run is of another tenant."""
    wanted = kinds or KINDS
    rows = connection.execute(
        f"""SELECT position, kind, key, name, attempt, parent, started_at_us, ended_at_us, status FROM spans
        WHERE run_id = ? AND position > ? AND (? IS NULL OR tenant = ?) AND kind IN ({", ".join("?" * len(wanted))})
        ORDER BY position LIMIT ?""",  # noqa: S608
        (run_id, after, tenant, tenant, *wanted, limit + 1),
    ).fetchall()
    items = [_item(row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return SpanList(items=items, total=None, next_cursor=None if is_last else str(items[-1].position))


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
        # The reporter's clock may go back; nothing lasts less than nothing.
        duration_ms=None if ended_at_us is None else max(0, ended_at_us - started_at_us) // 1_000,
        status=status,
    )


class _Span(msgspec.Struct):
    position: int
    kind: str
    key: str
    name: str
    attempt: int | None
    parent: int | None
    started_at_us: int
    ended_at_us: int | None
    status: str


_COLUMNS = "position, kind, key, name, attempt, parent, started_at_us, ended_at_us, status"


class TimelineFold:
    def __init__(self) -> None:
        self._open: dict[str, dict[tuple[str, str], _Span]] = {}
        self._changed: dict[tuple[str, int], tuple[str, _Span]] = {}

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        match event:
            case ToolCalled():
                self._begin(connection, recorded, "tool", event.call_id, event.tool, within="turn")
            case ToolReturned():
                self._end(connection, recorded, "tool", event.call_id, event.status)
            case CommandExecuted():
                status = event.status if event.exit_code in (None, 0) else f"exit {event.exit_code}"
                self._whole(connection, recorded, "command", event.command, event.duration_ms, status)
            case TestRunCompleted():
                status = "failed" if event.failed else "passed"
                name = event.framework or event.command
                self._whole(connection, recorded, "tests", name, event.duration_ms, status)
            case TurnStarted():
                name = f"turn {event.turn}"
                self._begin(connection, recorded, "turn", str(event.turn), name, event.attempt, step=event.step)
            case TurnCompleted() | TurnFailed() | TurnCancelled():
                self._end(connection, recorded, "turn", str(event.turn), recorded.type.removeprefix("turn_"))
            case StepStarted():
                self._begin(connection, recorded, "step", event.step, event.step, event.attempt)
            case StepCompleted() | StepFailed() | StepCancelled() | StepSkipped():
                self._end_step(connection, recorded, event)
            case UnitStarted():
                self._begin(connection, recorded, "unit", event.unit, event.unit, event.attempt)
            case UnitApproved() | UnitRejected() | UnitFailed():
                self._end(connection, recorded, "unit", event.unit, recorded.type.removeprefix("unit_"))
            case ApprovalRequested():
                self._begin(connection, recorded, "approval", event.approval_id, event.summary or event.kind)
            case ApprovalGranted() | ApprovalDenied() | ApprovalExpired():
                self._end(connection, recorded, "approval", event.approval_id, recorded.type.removeprefix("approval_"))
            case RunPaused():
                self._begin(connection, recorded, "pause", "pause", event.waiting_on or event.reason or "paused")
            case RunResumed():
                self._end(connection, recorded, "pause", "pause", "resumed")
            case _ if recorded.type in _RESTS:
                for kind, key in list(self._of(connection, recorded.run_id)):
                    self._end(connection, recorded, kind, key, "interrupted")
            case _:
                pass

    def _begin(
        self, connection: sqlite3.Connection, recorded: Fact, kind: str, key: str, name: str,
        attempt: int | None = None, *, within: str = "", step: str | None = None,
    ) -> None:  # fmt: skip
        opened = self._of(connection, recorded.run_id)
        if (kind, key) in opened:
            self._end(connection, recorded, kind, key, "interrupted")
        if len(opened) >= OPEN_MAX:
            self._end(connection, recorded, *next(iter(opened)), "lost")
        parent = opened.get(("step", step)) if step is not None else _only(opened, within) if within else None
        span = _Span(
            recorded.position, kind, key, name[:NAME_CHARS_MAX], attempt, None if parent is None else parent.position,
            recorded.at_us, None, "running",
        )  # fmt: skip
        opened[kind, key] = span
        self._changed[recorded.run_id, span.position] = (recorded.tenant, span)

    def _end(self, connection: sqlite3.Connection, recorded: Fact, kind: str, key: str, status: str) -> None:
        span = self._of(connection, recorded.run_id).pop((kind, key), None)
        if span is not None:
            span.ended_at_us, span.status = recorded.at_us, status
            self._changed[recorded.run_id, span.position] = (recorded.tenant, span)

    def _end_step(
        self, connection: sqlite3.Connection, recorded: Fact,
        event: StepCompleted | StepFailed | StepCancelled | StepSkipped,
    ) -> None:  # fmt: skip
        status = recorded.type.removeprefix("step_")
        if isinstance(event, StepCompleted) and event.cache_hit:
            status = "cached"
        if ("step", event.step) in self._of(connection, recorded.run_id):
            self._end(connection, recorded, "step", event.step, status)
        else:
            took_ms = event.duration_ms if isinstance(event, StepCompleted | StepFailed) else None
            self._whole(connection, recorded, "step", event.step, took_ms, status)

    def _whole(
        self, connection: sqlite3.Connection, recorded: Fact, kind: str, name: str, took_ms: int | None, status: str
    ) -> None:
        """What is told only when it is over."""
        parent = _only(self._of(connection, recorded.run_id), "turn") if kind != "step" else None
        key, within = name[:NAME_CHARS_MAX], None if parent is None else parent.position
        started_at_us = recorded.at_us - 1_000 * (took_ms or 0)
        span = _Span(recorded.position, kind, key, key, None, within, started_at_us, recorded.at_us, status)
        self._changed[recorded.run_id, span.position] = (recorded.tenant, span)

    def _of(self, connection: sqlite3.Connection, run_id: str) -> dict[tuple[str, str], _Span]:
        known = self._open.get(run_id)
        if known is None:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM spans WHERE run_id = ? AND ended_at_us IS NULL ORDER BY position",  # noqa: S608
                (run_id,),
            ).fetchall()
            known = self._open[run_id] = {(row[1], row[2]): _Span(*row) for row in rows}
        return known

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            f"INSERT OR REPLACE INTO spans (run_id, tenant, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [(run_id, tenant, *msgspec.structs.astuple(span)) for (run_id, _), (tenant, span) in self._changed.items()],
        )
        self._changed.clear()
        if len(self._open) > RUNS_HELD_MAX:
            self._open.clear()

    def forget(self) -> None:
        self._open.clear()
        self._changed.clear()


def _only(opened: dict[tuple[str, str], _Span], kind: str) -> _Span | None:
    """The open span of a kind, where only one can be meant."""
    found = [span for (of_kind, _), span in opened.items() if of_kind == kind]
    return found[0] if len(found) == 1 else None


_WANTED = frozenset(
    [
        "tool_called",
        "tool_returned",
        "command_executed",
        "test_run_completed",
        "turn_started",
        "turn_completed",
        "turn_failed",
        "turn_cancelled",
        "step_started",
        "step_completed",
        "step_failed",
        "step_cancelled",
        "step_skipped",
        "unit_started",
        "unit_approved",
        "unit_rejected",
        "unit_failed",
        "approval_requested",
        "approval_granted",
        "approval_denied",
        "approval_expired",
        "run_paused",
        "run_resumed",
        "run_completed",
        "run_failed",
        "run_cancelled",
        "run_stopped",
    ]
)
VIEW = View(
    name="timeline", revision=1, tables=("spans",), ddl=_DDL, make_fold=TimelineFold, wants=_WANTED.__contains__
)

"""A run folded into spans: its turns, steps, tools, units, approvals, pauses and limits, each with what it lies in."""

import msgspec
from msgspec.structs import astuple

from eventstore.sqlite3_module import sqlite3
from projections.engine.inserting import Rows
from projections.engine.view import Decoded, View
from runfold.envelope import Fact
from runfold.events import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    CommandExecuted,
    LimitExceeded,
    LimitWarned,
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

OPEN_MAX = 500  # Of one run: whoever never ends what it begins must not be remembered for ever.
RUNS_HELD_MAX = 1_024
NAME_CHARS_MAX = 120
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
        ended_position INTEGER, -- Of the event that ended it.
        status TEXT NOT NULL,
        output_offset INTEGER, -- Of a turn that ended: where its output begins in the run's, in bytes.
        output_bytes INTEGER,
        PRIMARY KEY (run_id, position)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX spans_open ON spans (run_id) WHERE ended_at_us IS NULL",
    "CREATE INDEX spans_within ON spans (run_id, parent) WHERE kind = 'turn'",
)
_RESTS = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})


class _Span(msgspec.Struct, gc=False):
    run_id: str
    position: int
    tenant: str
    kind: str
    key: str
    name: str
    parent: int | None
    started_at_us: int
    ended_at_us: int | None
    ended_position: int | None
    status: str
    attempt: int | None = None
    output_offset: int | None = None
    output_bytes: int | None = None


_COLUMNS = _Span.__struct_fields__
_OF_ALL = _COLUMNS.index("attempt")
"""So many columns every span has; the others are of those that are tried again or have output."""


class TimelineFold:
    def __init__(self) -> None:
        self._open: dict[str, dict[tuple[str, str], _Span]] = {}
        self._begun: dict[int, _Span] = {}
        """Those that go on and are not written: what has ended is on its way into the table at once."""
        self._rows = Rows("spans", _COLUMNS, verb="INSERT OR REPLACE")
        self._short_rows = Rows("spans", _COLUMNS[:_OF_ALL], verb="INSERT OR REPLACE")

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
                self._end_turn(connection, recorded, event)
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
            case LimitWarned() | LimitExceeded():
                name = f"{event.limit} {event.actual:g} of {event.threshold:g}"
                self._whole(connection, recorded, "limit", name, None, recorded.type.removeprefix("limit_"))
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
        position = recorded.position
        opened[kind, key] = self._begun[position] = _Span(
            recorded.run_id, position, recorded.tenant, kind, key, name[:NAME_CHARS_MAX],
            None if parent is None else parent.position, recorded.at_us, None, None, "running", attempt,
        )  # fmt: skip

    def _end(self, connection: sqlite3.Connection, recorded: Fact, kind: str, key: str, status: str) -> None:
        span = self._of(connection, recorded.run_id).pop((kind, key), None)
        if span is not None:
            span.ended_at_us, span.ended_position, span.status = recorded.at_us, recorded.position, status
            self._begun.pop(span.position, None)
            self._add(connection, span)

    def _end_turn(
        self, connection: sqlite3.Connection, recorded: Fact, event: TurnCompleted | TurnFailed | TurnCancelled
    ) -> None:
        key = str(event.turn)
        span = self._of(connection, recorded.run_id).get(("turn", key))
        if span is not None and event.output_offset is not None:
            span.output_offset, span.output_bytes = event.output_offset, event.output_bytes
        self._end(connection, recorded, "turn", key, recorded.type.removeprefix("turn_"))

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
        parent = _only(self._of(connection, recorded.run_id), "turn") if kind not in ("step", "limit") else None
        key, position, at_us = name[:NAME_CHARS_MAX], recorded.position, recorded.at_us
        span = _Span(
            recorded.run_id, position, recorded.tenant, kind, key, key, None if parent is None else parent.position,
            at_us - 1_000 * (took_ms or 0), at_us, position, status,
        )  # fmt: skip
        self._add(connection, span)

    def _of(self, connection: sqlite3.Connection, run_id: str) -> dict[tuple[str, str], _Span]:
        known = self._open.get(run_id)
        if known is None:
            rows = connection.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM spans WHERE run_id = ? AND ended_at_us IS NULL ORDER BY position",  # noqa: S608
                (run_id,),
            ).fetchall()
            known = self._open[run_id] = {(span.kind, span.key): span for span in (_Span(*row) for row in rows)}
        return known

    def _add(self, connection: sqlite3.Connection, span: _Span) -> None:
        if span.attempt is None and span.output_bytes is None and span.output_offset is None:
            rows = self._short_rows
            rows += astuple(span)[:_OF_ALL]
        else:
            rows = self._rows
            rows += astuple(span)
        if len(rows) >= rows.full:
            rows.write(connection)

    def write(self, connection: sqlite3.Connection) -> None:
        for span in self._begun.values():
            self._add(connection, span)
        self._begun.clear()
        self._rows.write(connection)
        self._short_rows.write(connection)
        if len(self._open) > RUNS_HELD_MAX:
            self._open.clear()

    def forget(self) -> None:
        self._open.clear()
        self._begun.clear()
        self._rows.clear()
        self._short_rows.clear()


def _only(opened: dict[tuple[str, str], _Span], kind: str) -> _Span | None:
    """The open span of a kind, where only one can be meant."""
    found = None
    for key, span in opened.items():
        if key[0] == kind:
            if found is not None:
                return None
            found = span
    return found


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
        "limit_warned",
        "limit_exceeded",
        "run_paused",
        "run_resumed",
        "run_completed",
        "run_failed",
        "run_cancelled",
        "run_stopped",
    ]
)
VIEW = View(
    name="timeline", revision=3, tables=("spans",), ddl=_DDL, make_fold=TimelineFold, wants=_WANTED.__contains__
)

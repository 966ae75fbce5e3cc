"""What it cost: tokens and money by run, UTC day, model, provider and step, added up as they are reported.

Every report counts what it says, provisional or not: the one that closes a turn carries only the difference.
"""

from typing import Any, Literal

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.view import Decoded, View
from runfold.envelope import Recorded
from runfold.events import (
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunStopped,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepReset,
    StepSkipped,
    StepStarted,
    TokenUsage,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)

LIMIT_MAX = 200
DAY_US = 86_400_000_000
RUNS_HELD_MAX = 4_096
GROUPS = ("model", "provider", "day", "workflow", "run", "step", "tenant")
Group = Literal["model", "provider", "day", "workflow", "run", "step", "tenant"]
_DDL = (
    """CREATE TABLE usage (
        run_id TEXT NOT NULL,
        day INTEGER NOT NULL, -- Days since 1970 in UTC, by when the log recorded it.
        model TEXT NOT NULL, -- Empty where nobody said it, like the two after it.
        provider TEXT NOT NULL,
        step TEXT NOT NULL,
        tenant TEXT NOT NULL,
        workflow TEXT NOT NULL,
        imported INTEGER NOT NULL, -- 1 where it was spent elsewhere, before the run came here.
        input_tokens INTEGER NOT NULL,
        cache_read_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_micros INTEGER NOT NULL, -- Of the reports whose price is known.
        priced INTEGER NOT NULL, -- Reports with a price.
        unpriced INTEGER NOT NULL, -- Reports that spent tokens and have none.
        PRIMARY KEY (run_id, day, model, provider, step)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX usage_day ON usage (day)",
    # What is left of a budget is asked for at every turn's start.
    "CREATE INDEX usage_workflow ON usage (workflow, day)",
    "CREATE INDEX usage_tenant ON usage (tenant, day)",
    # What is open in a run tells whose step the tokens are.
    """CREATE TABLE usage_open (
        run_id TEXT PRIMARY KEY,
        body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID""",
)
_ADD = """INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET input_tokens = input_tokens + excluded.input_tokens,
    cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens, cost_micros = cost_micros + excluded.cost_micros,
    priced = priced + excluded.priced, unpriced = unpriced + excluded.unpriced"""
_KEYS = {
    "model": "NULLIF(usage.model, '')",
    "provider": "NULLIF(usage.provider, '')",
    "day": "date(usage.day * 86400, 'unixepoch')",
    "workflow": "runs.workflow",
    "run": "usage.run_id",
    "step": "NULLIF(usage.step, '')",
    "tenant": "usage.tenant",
}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """`cost_usd` is null where no price is known; `unpriced` counts the reports that it leaves out."""

    key: str | None
    runs: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    unpriced: int


class CostList(msgspec.Struct, frozen=True, kw_only=True):
    """The dearest first (days: the newest); `sum` is of all groups, on this page or not."""

    items: list[Cost]
    total: int
    next_cursor: str | None
    sum: Cost


class CostFilter(msgspec.Struct, frozen=True, kw_only=True):
    """`since` and `until` are days of UTC such as 2026-01-31, both included."""

    tenant: str | None
    by: str = "model"
    run_id: str | None = None
    workflow: str | None = None
    since_day: int | None = None
    until_day: int | None = None
    limit: int = 50
    offset: int = 0


_SUMS = """count(DISTINCT usage.run_id), COALESCE(sum(input_tokens), 0), COALESCE(sum(cache_read_tokens), 0),
    COALESCE(sum(cache_write_tokens), 0), COALESCE(sum(output_tokens), 0), COALESCE(sum(reasoning_tokens), 0),
    COALESCE(sum(usage.cost_micros), 0), COALESCE(sum(priced), 0), COALESCE(sum(unpriced), 0)"""
_FROM = """FROM usage LEFT JOIN runs ON runs.run_id = usage.run_id
    WHERE (?1 IS NULL OR usage.tenant = ?1) AND (?2 IS NULL OR usage.run_id = ?2)
    AND (?3 IS NULL OR runs.workflow = ?3) AND (?4 IS NULL OR day >= ?4) AND (?5 IS NULL OR day <= ?5)"""


def costs(connection: sqlite3.Connection, wanted: CostFilter) -> CostList:
    """Tokens and cost, added up by one of GROUPS."""
    asked = (wanted.tenant, wanted.run_id, wanted.workflow, wanted.since_day, wanted.until_day)
    key = _KEYS[wanted.by]
    order = "1 DESC" if wanted.by == "day" else "8 DESC, 3 + 6 DESC, 1"
    groups: int = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 {_FROM} GROUP BY {key})",  # noqa: S608
        asked,
    ).fetchone()[0]
    rows = connection.execute(
        f"SELECT {key}, {_SUMS} {_FROM} GROUP BY 1 ORDER BY {order} LIMIT ?6 OFFSET ?7",
        (*asked, wanted.limit, wanted.offset),
    ).fetchall()
    everything = connection.execute(f"SELECT NULL, {_SUMS} {_FROM}", asked).fetchone()
    following = wanted.offset + len(rows)
    return CostList(
        items=[_cost(row) for row in rows],
        total=groups,
        next_cursor=str(following) if following < groups else None,
        sum=_cost(everything),
    )


def _cost(row: tuple[Any, ...]) -> Cost:
    key, runs, tokens_in, cache_read, cache_write, tokens_out, reasoning, cost_micros, priced, unpriced = row
    return Cost(
        key=key,
        runs=runs,
        input_tokens=tokens_in,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        output_tokens=tokens_out,
        reasoning_tokens=reasoning,
        cost_usd=cost_micros / 1_000_000 if priced else None,
        unpriced=unpriced,
    )


class _Open(msgspec.Struct):
    """Turn → step of the open turns, the open steps, and whose the run is."""

    turns: dict[int, str | None] = {}
    steps: list[str] = []
    rests: bool = False
    workflow: str = ""
    imported: bool = False

    @property
    def only_step(self) -> str | None:
        if len(self.turns) == 1:
            return next(iter(self.turns.values()))
        return self.steps[0] if len(self.steps) == 1 and not self.turns else None


class UsageFold:
    def __init__(self) -> None:
        self._sums: dict[tuple[str, int, str, str, str], list[Any]] = {}
        self._runs: dict[str, _Open] = {}
        self._changed: set[str] = set()
        self._decode = msgspec.json.Decoder(_Open).decode

    def apply(self, connection: sqlite3.Connection, recorded: Recorded, event: Decoded) -> None:
        if isinstance(event, TokenUsage):
            self._add(connection, recorded, event)
            return
        opened = self._opened(connection, recorded.run_id)
        self._changed.add(recorded.run_id)
        match event:
            case RunQueued():
                opened.rests = False
                opened.workflow, opened.imported = event.workflow or "", event.driver == "imported"
            case TurnStarted():
                opened.turns.pop(event.turn, None)
                if not opened.rests:
                    opened.turns[event.turn] = event.step
            case TurnCompleted() | TurnFailed() | TurnCancelled():
                opened.turns.pop(event.turn, None)
            case StepStarted():
                if not opened.rests:
                    opened.steps = [*(step for step in opened.steps if step != event.step), event.step]
            case StepCompleted() | StepFailed() | StepSkipped() | StepCancelled():
                opened.steps = [step for step in opened.steps if step != event.step]
            case StepReset():
                opened.steps = [step for step in opened.steps if step != event.step and step not in event.also]
            case RunCompleted() | RunFailed() | RunCancelled() | RunStopped():
                opened.rests = True
            case _ if recorded.type in _GOES_ON:
                opened.rests = False
            case _:
                pass

    def _add(self, connection: sqlite3.Connection, recorded: Recorded, event: TokenUsage) -> None:
        opened = self._opened(connection, recorded.run_id)
        step = event.step or opened.only_step
        key = (recorded.run_id, recorded.recorded_at_us // DAY_US, event.model or "", event.provider or "", step or "")
        spent = event.input_tokens + event.output_tokens > 0 and event.semantics == "delta"
        numbers = (
            event.input_tokens,
            event.cache_read_tokens,
            event.cache_write_tokens,
            event.output_tokens,
            event.reasoning_tokens,
            event.cost_micros or 0,
            int(event.cost_micros is not None),
            int(spent and event.cost_micros is None),
        )
        known = self._sums.get(key)
        if known is None:
            self._sums[key] = [recorded.tenant, opened.workflow, int(opened.imported), *numbers]
        else:
            known[3:] = [had + more for had, more in zip(known[3:], numbers, strict=True)]

    def _opened(self, connection: sqlite3.Connection, run_id: str) -> _Open:
        known = self._runs.get(run_id)
        if known is None:
            row = connection.execute("SELECT body FROM usage_open WHERE run_id = ?", (run_id,)).fetchone()
            known = self._runs[run_id] = _Open() if row is None else self._decode(row[0])
        return known

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(_ADD, [(*key, *numbers) for key, numbers in self._sums.items()])
        connection.executemany(
            "INSERT OR REPLACE INTO usage_open VALUES (?, ?)",
            [(run_id, msgspec.json.encode(self._runs[run_id])) for run_id in sorted(self._changed)],
        )
        self._sums.clear()
        self._changed.clear()
        if len(self._runs) > RUNS_HELD_MAX:
            self._runs.clear()

    def forget(self) -> None:
        self._sums.clear()
        self._changed.clear()
        self._runs.clear()


# After these a run does not rest, whatever it did before.
_GOES_ON = frozenset(
    {"run_started", "run_requeued", "run_resumed", "run_paused", "pause_requested", "cancel_requested",
     "limit_exceeded"}
)  # fmt: skip
_WANTED = _GOES_ON | {
    "run_queued", "token_usage", "turn_started", "turn_completed", "turn_failed", "turn_cancelled", "step_started",
    "step_completed", "step_failed", "step_skipped", "step_cancelled", "step_reset", "run_completed", "run_failed",
    "run_cancelled", "run_stopped",
}  # fmt: skip
VIEW = View(
    name="usage", revision=2, tables=("usage", "usage_open"), ddl=_DDL, make_fold=UsageFold, wants=_WANTED.__contains__
)

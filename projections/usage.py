"""What it cost: tokens and money by run, UTC day, model, provider and step, added up as they are reported.

Every report counts what it says, provisional or not: the one that closes a turn carries only the difference.
"""

from typing import Any, Literal

import msgspec
from msgspec import convert

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, View
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.events import RunArchived, TokenUsage
from runfold.spent import OPENING, Spender, numbers_of

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
    """`cost_usd` is null where no price is known; `unpriced` counts the reports that it leaves out.

    `then` is the key of the group within the group, where one was asked for.
    """

    key: str | None
    then: str | None = None
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
    then: str | None = None
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
    then = "NULL" if wanted.then is None else _KEYS[wanted.then]
    order = "1 DESC, 9 DESC, 2" if wanted.by == "day" else "9 DESC, 4 + 7 DESC, 1, 2"
    groups: int = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 {_FROM} GROUP BY {key}, {then})",  # noqa: S608
        asked,
    ).fetchone()[0]
    rows = connection.execute(
        f"SELECT {key}, {then}, {_SUMS} {_FROM} GROUP BY 1, 2 ORDER BY {order} LIMIT ?6 OFFSET ?7",
        (*asked, wanted.limit, wanted.offset),
    ).fetchall()
    everything = connection.execute(f"SELECT NULL, NULL, {_SUMS} {_FROM}", asked).fetchone()
    following = wanted.offset + len(rows)
    return CostList(
        items=[_cost(row) for row in rows],
        total=groups,
        next_cursor=str(following) if following < groups else None,
        sum=_cost(everything),
    )


def _cost(row: tuple[Any, ...]) -> Cost:
    key, then, runs, tokens_in, cache_read, cache_write, tokens_out, reasoning, cost_micros, priced, unpriced = row
    return Cost(
        key=key,
        then=then,
        runs=runs,
        input_tokens=tokens_in,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        output_tokens=tokens_out,
        reasoning_tokens=reasoning,
        cost_usd=cost_micros / 1_000_000 if priced else None,
        unpriced=unpriced,
    )


class _Trimmed(msgspec.Struct, frozen=True):
    """What the summary of a trimmed run says of what it spent."""

    run: dict[str, Any]
    imported: bool = False
    usage: list[list[Any]] = []
    """Day, model, provider, step, and the numbers."""


class UsageFold:
    def __init__(self) -> None:
        self._sums: dict[tuple[str, int, str, str, str], list[Any]] = {}
        self._runs: dict[str, Spender] = {}
        self._changed: set[str] = set()
        self._summed_up: set[str] = set()
        """Runs of this page of which a summary was folded."""
        self._decode = msgspec.json.Decoder(Spender).decode

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        if isinstance(event, TokenUsage):
            self._add(connection, recorded, event)
            return
        if recorded.run_id == SYSTEM_STREAM:
            if isinstance(event, RunArchived):
                self._add_trimmed(connection, recorded, event)
            return
        if recorded.version == 1 and recorded.run_id in self._summed_up:
            # It comes back from an archive.
            self._clear(connection, recorded.run_id)
        self._changed.add(recorded.run_id)
        self._opened(connection, recorded.run_id).note(recorded.type, event)

    def _add(self, connection: sqlite3.Connection, recorded: Fact, event: TokenUsage) -> None:
        opened = self._opened(connection, recorded.run_id)
        day, step = recorded.recorded_at_us // DAY_US, opened.step_of(event)
        key = (recorded.run_id, day, event.model or "", event.provider or "", step)
        self._sum(key, recorded.tenant, opened.workflow, opened.imported, numbers_of(event))

    def _add_trimmed(self, connection: sqlite3.Connection, recorded: Fact, event: RunArchived) -> None:
        """What a run spent whose events are gone."""
        summary: Any = event.summary
        if not isinstance(summary, dict):
            return
        said = convert(summary, _Trimmed)
        # It may have been trimmed before, and come back in between.
        self._clear(connection, event.run_id)
        self._summed_up.add(event.run_id)
        for day, model, provider, step, *numbers in said.usage:
            key = (event.run_id, day, model, provider, step)
            self._sum(key, recorded.tenant, said.run.get("workflow") or "", said.imported, tuple(numbers))

    def _clear(self, connection: sqlite3.Connection, run_id: str) -> None:
        for key in [key for key in self._sums if key[0] == run_id]:
            del self._sums[key]
        VIEW.drop_run(connection, run_id)

    def _sum(
        self,
        key: tuple[str, int, str, str, str],
        tenant: str,
        workflow: str,
        imported: bool,
        numbers: tuple[int, ...],
    ) -> None:
        known = self._sums.get(key)
        if known is None:
            self._sums[key] = [tenant, workflow, int(imported), *numbers]
        else:
            known[3:] = [had + more for had, more in zip(known[3:], numbers, strict=True)]

    def _opened(self, connection: sqlite3.Connection, run_id: str) -> Spender:
        known = self._runs.get(run_id)
        if known is None:
            row = connection.execute("SELECT body FROM usage_open WHERE run_id = ?", (run_id,)).fetchone()
            known = self._runs[run_id] = Spender(turns={}, steps=[]) if row is None else self._decode(row[0])
        return known

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(_ADD, [(*key, *numbers) for key, numbers in self._sums.items()])
        connection.executemany(
            "INSERT OR REPLACE INTO usage_open VALUES (?, ?)",
            [(run_id, msgspec.json.encode(self._runs[run_id])) for run_id in sorted(self._changed)],
        )
        self._sums.clear()
        self._changed.clear()
        self._summed_up.clear()
        if len(self._runs) > RUNS_HELD_MAX:
            self._runs.clear()

    def forget(self) -> None:
        self._sums.clear()
        self._changed.clear()
        self._summed_up.clear()
        self._runs.clear()


_WANTED = OPENING | {"token_usage", "run_archived"}
VIEW = View(
    name="usage",
    revision=3,
    tables=("usage", "usage_open"),
    ddl=_DDL,
    make_fold=UsageFold,
    wants=_WANTED.__contains__,
    system=True,
)

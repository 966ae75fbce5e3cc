"""Anybody's own questions in SQL: a connection that can only read, over views whose columns stay (docs/sql.md)."""

import re
import time
from pathlib import Path
from typing import Any

from eventstore.log_file import open_reader
from eventstore.sqlite3_module import sqlite3
from projections.engine.views import Views
from runfold.errors import BadRequest

SECONDS_MAX = 10.0
ROWS_MAX = 1_000
STEPS_BETWEEN_LOOKS = 10_000  # Of SQLite's machine: some hundred microseconds.
_TIME = r"strftime('%Y-%m-%dT%H:%M:%S', \1 / 1000000, 'unixepoch') || printf('.%06dZ', \1 % 1000000)"
_USD = r"\1 / 1000000.0"
# `{time x}` and `{usd x}` are written out below.
STABLE = {
    "events": """SELECT position, run_id, version, lower(hex(id)) AS id, type, tenant, actor,
        {time at_us} AS at, {time recorded_at_us} AS recorded_at,
        lower(hex(cause)) AS cause, lower(hex(command)) AS command, CAST(data AS TEXT) AS data
        FROM main.events JOIN main.run_blocks USING (run_id, block)""",
    "runs": """SELECT run_id, tenant, status, workflow, title, {time created_at_us} AS created_at,
        {time started_at_us} AS started_at, {time completed_at_us} AS completed_at,
        duration_us / 1000 AS duration_ms, {usd cost_micros} AS cost_usd, labels, version, position
        FROM folded.runs""",
    "history": """SELECT position, run_id, tenant, from_status, to_status, reason_code, actor,
        {time at_us} AS at FROM folded.history""",
    "usage": """SELECT run_id, tenant, date(day * 86400, 'unixepoch') AS day, model, provider, step, input_tokens,
        cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        CASE WHEN priced THEN {usd cost_micros} END AS cost_usd, unpriced FROM folded.usage""",
    "spans": """SELECT run_id, position, tenant, kind, key, name, attempt, parent,
        {time started_at_us} AS started_at, {time ended_at_us} AS ended_at,
        (ended_at_us - started_at_us) / 1000 AS duration_ms, status FROM folded.spans""",
    "artifacts": """SELECT position, run_id, tenant, artifact_id, name, media_type, size_bytes, sha256, step, actor,
        {time at_us} AS at FROM folded.artifacts""",
}


class Questions:
    """One connection to the log and the views of a data folder; nothing that it is asked can change them."""

    def __init__(self, data: Path) -> None:
        """Catches the views up first. Raises NotFound, BadRequest."""
        self._connection = open_reader(data)
        try:
            views = Views.open(data)
            try:
                views.refresh()
                address = f"{views.path.absolute().as_uri()}?mode=ro"
                self._connection.execute("ATTACH DATABASE ? AS folded", (address,))
                # Opened while it is there: SQLite does so at the first question.
                self._connection.execute("SELECT count(*) FROM folded.sqlite_schema")
            finally:
                views.close()
            self._connection.execute("PRAGMA query_only = OFF")
            for name, select in STABLE.items():
                self._connection.execute(f"CREATE TEMP VIEW {name} AS {_written_out(select)}")
            self._connection.execute("PRAGMA query_only = ON")
            self._connection.set_authorizer(_authorize)
        except BaseException:
            self._connection.close()
            raise

    def ask(
        self, query: str, *, limit: int = ROWS_MAX, seconds: float = SECONDS_MAX
    ) -> tuple[list[str], list[tuple[Any, ...]], bool]:
        """Column names, rows, and whether there are more. Raises BadRequest, also where it takes too long."""
        deadline = time.monotonic() + seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
        try:
            cursor = self._connection.execute(query)
            rows = cursor.fetchmany(limit + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            if time.monotonic() > deadline:
                hint = "narrow it with WHERE on position or run_id, or give it more --seconds"
                raise BadRequest(f"the question took longer than {seconds:g} s", hint=hint) from error
            hint = "docs/sql.md lists what can be read; one SELECT at a time is taken"
            raise BadRequest(f"SQLite says: {error}", hint=hint) from error
        return _told_apart([column[0] for column in cursor.description or ()]), rows[:limit], len(rows) > limit

    def close(self) -> None:
        self._connection.close()


def _told_apart(names: list[str]) -> list[str]:
    """A name that comes again as SQLite itself writes it in a table: `name:1`."""
    return [
        f"{name}:{names[:index].count(name)}" if name in names[:index] else name for index, name in enumerate(names)
    ]


def _written_out(select: str) -> str:
    return re.sub(r"\{usd (\w+)\}", _USD, re.sub(r"\{time (\w+)\}", _TIME, select))


def _authorize(action: int, name: str | None, column: str | None, database: str | None, trigger: str | None) -> int:
    is_safe = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE) or (
        action == sqlite3.SQLITE_FUNCTION and (column or "").lower() != "load_extension"
    )
    return int(sqlite3.SQLITE_OK if is_safe else sqlite3.SQLITE_DENY)

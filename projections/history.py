"""The status transitions of a run: a row whenever its fold changed status, with who did it and when."""

from typing import Any

import msgspec
from msgspec import convert

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, RunCache, View, encode_run
from runfold.envelope import SYSTEM_STREAM, Fact, time_text
from runfold.events import EVENT_CLASSES, RunArchived

TRANSITIONS_MAX = 10_000  # More than anybody reads; the events have them all.
_DDL = (
    """CREATE TABLE history (
        position INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        from_status TEXT,
        to_status TEXT,
        reason_code TEXT NOT NULL,
        actor TEXT NOT NULL,
        at_us INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX history_of_run ON history (run_id, position)",
    # The folded runs of this view alone: it may stand at another event than the list does.
    """CREATE TABLE history_runs (
        run_id TEXT PRIMARY KEY,
        position INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID""",
)


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """`duration_ms` is how long the run stayed in `to`; null while it is in it."""

    from_status: str | None = msgspec.field(name="from")
    to_status: str | None = msgspec.field(name="to")
    reason_code: str
    actor: str
    at: str
    duration_ms: int | None
    position: int


def run_history(
    connection: sqlite3.Connection, run_id: str, *, tenant: str | None = None, at: int | None = None
) -> list[Transition]:
    """The run's transitions up to position `at`, the oldest first; empty where it is unknown or of another tenant."""
    rows = connection.execute(
        """SELECT from_status, to_status, reason_code, actor, at_us, lead(at_us) OVER (ORDER BY position), position
        FROM history WHERE run_id = ?1 AND (?2 IS NULL OR tenant = ?2) AND (?4 IS NULL OR position <= ?4)
        ORDER BY position LIMIT ?3""",
        (run_id, tenant, TRANSITIONS_MAX, at),
    ).fetchall()
    return [
        Transition(
            from_status=before,
            to_status=after,
            reason_code=reason_code,
            actor=actor,
            at=time_text(at_us),
            # The reporter's clock may go back; a stay in a status never lasts less than nothing.
            duration_ms=None if next_us is None else max(0, next_us - at_us) // 1_000,
            position=position,
        )
        for before, after, reason_code, actor, at_us, next_us, position in rows
    ]


MOVING_CLASSES = frozenset({"lifecycle", "audit"})


class _Trimmed(msgspec.Struct, frozen=True):
    """What the summary of a trimmed run says of how its status went."""

    history: list[tuple[int, str | None, str | None, str, str, int]] = []
    """Position, from, to, reason, actor, time."""


class HistoryFold:
    def __init__(self) -> None:
        from runfold.evolve import evolve

        self._evolve = evolve
        self._runs = RunCache("SELECT body, position FROM history_runs WHERE run_id = ?")
        self._rows: list[tuple[int, str, str, str | None, str | None, str, str, int]] = []
        self._summed_up: set[str] = set()
        """Runs of this page of which a summary was folded."""

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        if recorded.run_id == SYSTEM_STREAM:
            if isinstance(event, RunArchived):
                self._add_trimmed(connection, recorded, event)
            return
        if recorded.version == 1 and recorded.run_id in self._summed_up:
            # It comes back from an archive.
            self._clear(connection, recorded.run_id)
        before = self._runs.get(connection, recorded)
        after = self._evolve(before, event, at_us=recorded.at_us)
        self._runs.put(after, recorded.position)
        if after.status != before.status:
            self._rows.append(
                (
                    recorded.position,
                    recorded.run_id,
                    after.tenant,
                    before.status,
                    after.status,
                    after.reason_code,
                    recorded.actor,
                    recorded.at_us,
                )
            )

    def _add_trimmed(self, connection: sqlite3.Connection, recorded: Fact, event: RunArchived) -> None:
        """How the status of a run went whose events are gone."""
        summary: Any = event.summary
        if isinstance(summary, dict):
            # It may have been trimmed before, and come back in between.
            self._clear(connection, event.run_id)
            self._summed_up.add(event.run_id)
            for position, before, after, reason_code, actor, at_us in convert(summary, _Trimmed).history:
                row = (position, event.run_id, recorded.tenant, before, after, reason_code, actor, at_us)
                self._rows.append(row)

    def _clear(self, connection: sqlite3.Connection, run_id: str) -> None:
        self._rows = [row for row in self._rows if row[1] != run_id]
        VIEW.drop_run(connection, run_id)

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
        connection.executemany(
            "INSERT OR REPLACE INTO history_runs VALUES (?, ?, ?)",
            [(run.run_id, position, encode_run(run)) for run, position in self._runs.written()],
        )
        self._rows.clear()
        self._summed_up.clear()
        self._runs.settle()

    def forget(self) -> None:
        self._rows.clear()
        self._summed_up.clear()
        self._runs.clear()


VIEW = View(
    name="history",
    revision=4,
    tables=("history", "history_runs"),
    ddl=_DDL,
    make_fold=HistoryFold,
    # Only lifecycle and audit facts move a status; the many others need not be folded twice.
    wants=lambda type_name: EVENT_CLASSES.get(type_name) in MOVING_CLASSES,
    system=True,
)

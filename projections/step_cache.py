"""What steps made, by the key of what they were made from: the newest of each tenant, for whoever makes it again.

Each run keeps a row of its own, so that what is taken out of one brings back the one before it.
"""

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, View
from runfold.envelope import Fact
from runfold.events import StepCompleted

_DDL = (
    """CREATE TABLE step_cache (
        tenant TEXT NOT NULL,
        cache_key TEXT NOT NULL,
        run_id TEXT NOT NULL,
        position INTEGER NOT NULL, -- Of the step's completion.
        step TEXT NOT NULL,
        files TEXT NOT NULL, -- A JSON object: path in the workspace to sha256 of the blob.
        PRIMARY KEY (tenant, cache_key, run_id)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX step_cache_of_run ON step_cache (run_id)",
)
_decode = msgspec.json.Decoder(dict[str, str]).decode


class _Made(msgspec.Struct, frozen=True):
    files: dict[str, str]


class CachedStep(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    step: str
    files: dict[str, str]


def find_cached(connection: sqlite3.Connection, tenant: str, cache_key: str) -> CachedStep | None:
    row = connection.execute(
        """SELECT run_id, step, files FROM step_cache WHERE tenant = ? AND cache_key = ?
        ORDER BY position DESC LIMIT 1""",
        (tenant, cache_key),
    ).fetchone()
    return None if row is None else CachedStep(run_id=row[0], step=row[1], files=_decode(row[2]))


class StepCacheFold:
    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, int, str, str]] = []

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        if not isinstance(event, StepCompleted) or event.cache_key is None or event.cache_hit:
            return
        try:
            made = msgspec.convert(event.output, _Made)
        except msgspec.ValidationError:
            return  # Only what files hold can be put back.
        files = msgspec.json.encode(made.files).decode()
        self._rows.append((recorded.tenant, event.cache_key, recorded.run_id, recorded.position, event.step, files))

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT OR REPLACE INTO step_cache VALUES (?, ?, ?, ?, ?, ?)", self._rows)
        self._rows.clear()

    def forget(self) -> None:
        self._rows.clear()


VIEW = View(
    name="step_cache",
    revision=2,
    tables=("step_cache",),
    ddl=_DDL,
    make_fold=StepCacheFold,
    wants=lambda type_name: type_name == "step_completed",
)

"""What runs and their steps left behind: one row for every artifact that was stored."""

from typing import Any

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, View
from runfold.envelope import Fact, time_text
from runfold.events import ArtifactStored

LIMIT_MAX = 200
_DDL = (
    """CREATE TABLE artifacts (
        position INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        artifact_id TEXT NOT NULL,
        name TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        step TEXT,
        actor TEXT NOT NULL,
        at_us INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX artifacts_of_run ON artifacts (run_id, artifact_id, position)",
)


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    artifact_id: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    step: str | None
    actor: str
    at: str
    position: int


class ArtifactList(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which they were stored; `next_cursor` is null on the last page."""

    items: list[Artifact]
    total: int
    next_cursor: str | None


# What was stored again under the same id is the newer one, of those that there were.
_NEWEST = """FROM artifacts a WHERE run_id = ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR step = ?3)
    AND (?6 IS NULL OR position <= ?6)
    AND NOT EXISTS (SELECT 1 FROM artifacts b
        WHERE b.run_id = a.run_id AND b.artifact_id = a.artifact_id AND b.position > a.position
        AND (?6 IS NULL OR b.position <= ?6))"""


def list_artifacts(
    connection: sqlite3.Connection,
    run_id: str,
    *,
    tenant: str | None,
    step: str | None = None,
    at: int | None = None,
    limit: int = LIMIT_MAX,
    after: int = 0,
) -> ArtifactList:
    """The artifacts of a run, or of one of its steps, up to position `at`; none where the run is of another tenant."""
    asked = (run_id, tenant, step, after, limit + 1, at)
    total: int = connection.execute(f"SELECT count(*) {_NEWEST}", asked).fetchone()[0]
    rows = connection.execute(
        f"""SELECT artifact_id, name, media_type, size_bytes, sha256, step, actor, at_us, position {_NEWEST}
        AND position > ?4 ORDER BY position LIMIT ?5""",
        asked,
    ).fetchall()
    items = [_item(row) for row in rows[:limit]]
    return ArtifactList(items=items, total=total, next_cursor=str(items[-1].position) if len(rows) > limit else None)


def get_artifact(
    connection: sqlite3.Connection, run_id: str, artifact_id: str, *, tenant: str | None
) -> Artifact | None:
    """The newest artifact under an id; None where the run has none, or is of another tenant."""
    row = connection.execute(
        """SELECT artifact_id, name, media_type, size_bytes, sha256, step, actor, at_us, position FROM artifacts
        WHERE run_id = ?1 AND artifact_id = ?2 AND (?3 IS NULL OR tenant = ?3) ORDER BY position DESC LIMIT 1""",
        (run_id, artifact_id, tenant),
    ).fetchone()
    return None if row is None else _item(row)


def _item(row: tuple[Any, ...]) -> Artifact:
    artifact_id, name, media_type, size_bytes, sha256, step, actor, at_us, position = row
    return Artifact(
        artifact_id=artifact_id,
        name=name,
        media_type=media_type,
        size_bytes=size_bytes,
        sha256=sha256,
        step=step,
        actor=actor,
        at=time_text(at_us),
        position=position,
    )


class ArtifactsFold:
    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        match event:
            case ArtifactStored():
                where = (recorded.position, recorded.run_id, recorded.version, recorded.tenant)
                what = (event.artifact_id, event.name, event.media_type, event.size_bytes, event.sha256, event.step)
                self._rows.append((*where, *what, recorded.actor, recorded.at_us))
            case _:
                pass

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
        self.forget()

    def forget(self) -> None:
        self._rows.clear()


VIEW = View(
    name="artifacts",
    revision=1,
    tables=("artifacts",),
    ddl=_DDL,
    make_fold=ArtifactsFold,
    wants=frozenset({"artifact_stored"}).__contains__,
)

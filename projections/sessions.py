"""Which runs an agent's session stands in, by the agent's own id of it."""

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import Decoded, View
from runfold.envelope import Fact
from runfold.events import TokenUsage, TurnEnded

RUNS_MAX = 100  # That one session stands in: it goes on in a few runs at most.
_DDL = (
    """CREATE TABLE agent_sessions (
        tenant TEXT NOT NULL,
        session TEXT NOT NULL,
        run_id TEXT NOT NULL,
        PRIMARY KEY (tenant, session, run_id)
    ) STRICT, WITHOUT ROWID""",
)
_TYPES = frozenset({"turn_completed", "turn_failed", "turn_cancelled", "token_usage"})


def runs_of_session(connection: sqlite3.Connection, tenant: str, session: str) -> list[str]:
    rows = connection.execute(
        "SELECT run_id FROM agent_sessions WHERE tenant = ? AND session = ? LIMIT ?", (tenant, session, RUNS_MAX)
    )
    return [run_id for (run_id,) in rows]


class SessionsFold:
    def __init__(self) -> None:
        self._rows: set[tuple[str, str, str]] = set()

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        session = None
        if isinstance(event, TokenUsage):
            session = event.session
        elif isinstance(event, TurnEnded):
            session = event.agent_session_id
        if session:
            self._rows.add((recorded.tenant, session, recorded.run_id))

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT OR IGNORE INTO agent_sessions VALUES (?, ?, ?)", sorted(self._rows))
        self._rows.clear()

    def forget(self) -> None:
        self._rows.clear()


VIEW = View(
    name="sessions",
    revision=1,
    tables=("agent_sessions",),
    ddl=_DDL,
    make_fold=SessionsFold,
    wants=lambda type_name: type_name in _TYPES,
)

"""The audit's table: one row for every event but output, in few words, and who, what, when and why."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeAlias, cast

from eventstore.sqlite3_module import sqlite3
from projections.engine.inserting import Rows
from projections.engine.names import Names
from projections.engine.view import Decoded, View
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.events import EVENT_TYPES, Failure

TEXT_CHARS_MAX = 200
_TEXT_FIELDS = (
    "text", "title", "refused", "code", "reason_code", "step", "unit", "tool", "limit", "key", "value", "kind",
    "name", "command", "approval_id", "summary", "comment", "message", "reason", "error", "worker",
)  # fmt: skip
_DDL = (
    """CREATE TABLE audit_names (
        name_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT""",
    # Apart, as there are many more of them.
    """CREATE TABLE audit_paths (
        name_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT""",
    """CREATE TABLE audit (
        position INTEGER PRIMARY KEY,
        run INTEGER NOT NULL, -- These four are numbers of audit_names.
        tenant INTEGER NOT NULL,
        type INTEGER NOT NULL,
        actor INTEGER NOT NULL,
        path INTEGER, -- Of audit_paths.
        version INTEGER NOT NULL, -- 0 for an event of the system stream, which stands under the run it is about.
        id BLOB NOT NULL, -- A UUID, as are the next two.
        at_us INTEGER NOT NULL,
        recorded_at_us INTEGER NOT NULL,
        cause BLOB,
        command BLOB,
        text TEXT NOT NULL -- The beginning of what it says.
    ) STRICT""",
    "CREATE INDEX audit_run ON audit (run)",
    "CREATE INDEX audit_type ON audit (type)",
    "CREATE INDEX audit_actor ON audit (actor)",
    "CREATE INDEX audit_path ON audit (path) WHERE path IS NOT NULL",
    "CREATE INDEX audit_cause ON audit (cause) WHERE cause IS NOT NULL",
)


_COLUMNS = ("position", "run", "tenant", "type", "actor", "path", "version", "id", "at_us", "recorded_at_us", "text")


class AuditFold:
    def __init__(self) -> None:
        self._names = Names("audit_names")
        self._paths = Names("audit_paths")
        # Where neither is known, where one of them is, and where both are.
        self._rows = tuple(
            Rows("audit", (*_COLUMNS, *known)) for known in ((), ("command",), ("cause",), ("cause", "command"))
        )
        self._tellers: dict[str, _Teller] = {}

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        names, run_id, version = self._names, recorded.run_id, recorded.version
        if run_id == SYSTEM_STREAM:
            run_id, version = getattr(event, "run_id", "") or run_id, 0
        path, text = None, ""
        if event is not None:
            known = self._tellers.get(recorded.type)
            if known is None:
                known = self._tellers[recorded.type] = _teller(recorded.type)
            has_path, say = known
            path, text = self._paths[event.path] if has_path else None, say(event)  # type: ignore[union-attr]
        cause, command = recorded.cause, recorded.command
        rows = self._rows[(cause is not None) * 2 + (command is not None)]
        rows += (
            recorded.position,
            names[run_id],
            names[recorded.tenant],
            names[recorded.type],
            names[recorded.actor],
            path,
            version,
            recorded.id,
            recorded.at_us,
            recorded.recorded_at_us,
            text,
        )
        if cause is not None:
            rows.append(cause)
        if command is not None:
            rows.append(command)
        if len(rows) >= rows.full:
            rows.write(connection)

    def write(self, connection: sqlite3.Connection) -> None:
        self._names.write(connection)
        self._paths.write(connection)
        for rows in self._rows:
            rows.write(connection)

    def forget(self) -> None:
        self._names.forget()
        self._paths.forget()
        for rows in self._rows:
            rows.clear()


def _drop(connection: sqlite3.Connection, run_id: str) -> None:
    """Take out what a run itself said, and the names and paths that nobody else says."""
    mine = "FROM audit WHERE run = (SELECT name_id FROM audit_names WHERE name = ?) AND version > 0"
    paths = connection.execute(f"SELECT DISTINCT path {mine} AND path IS NOT NULL", (run_id,)).fetchall()
    names = {
        number
        for row in connection.execute(f"SELECT DISTINCT run, tenant, type, actor {mine}", (run_id,))
        for number in row
    }
    connection.execute(f"DELETE {mine}", (run_id,))
    connection.executemany(
        "DELETE FROM audit_paths WHERE name_id = ?1 AND NOT EXISTS (SELECT 1 FROM audit WHERE path = ?1)", paths
    )
    connection.executemany(
        "DELETE FROM audit_names WHERE name_id = ?1 AND NOT EXISTS (SELECT 1 FROM audit WHERE run = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM audit WHERE type = ?1) AND NOT EXISTS (SELECT 1 FROM audit WHERE actor = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM audit WHERE tenant = ?1)",
        [(number,) for number in names],
    )


_Teller: TypeAlias = tuple[bool, Callable[[Any], str]]


def _teller(type_name: str) -> _Teller:
    """Whether events of a type name a path, and what they say in few words: made once, as every event is asked."""
    kind = EVENT_TYPES.get(type_name)
    if kind is None:
        return False, lambda event: bytes(event.data)[:TEXT_CHARS_MAX].decode("utf-8", "ignore")
    has_path = "path" in kind.__struct_fields__
    fields = tuple(name for name in _TEXT_FIELDS if name in kind.__struct_fields__)
    if not fields:
        return has_path, lambda _: ""
    if len(fields) == 1:
        only = attrgetter(fields[0])
        if kind.__annotations__.get(fields[0]) is str:
            return has_path, lambda event: only(event)[:TEXT_CHARS_MAX]
        return has_path, lambda event: _plain(only(event))
    several = attrgetter(*fields)
    return has_path, lambda event: " ".join([text for value in several(event) if value and (text := _plain(value))])[
        :TEXT_CHARS_MAX
    ]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX]
    if isinstance(value, Failure):
        return f"{value.code} {value.message}".strip()[:TEXT_CHARS_MAX]
    if isinstance(value, tuple):
        return " ".join(map(str, cast("tuple[object, ...]", value)[:20]))[:TEXT_CHARS_MAX]
    return "" if value is None else str(value)[:TEXT_CHARS_MAX]


VIEW = View(
    name="audit",
    revision=2,
    tables=("audit_names", "audit_paths", "audit"),
    ddl=_DDL,
    make_fold=AuditFold,
    wants=lambda type_name: type_name != "subprocess_output",
    names=True,
    system=True,
    drop=_drop,
)

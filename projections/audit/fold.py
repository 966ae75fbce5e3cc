"""The audit's tables: one row for every event but output, in few words, and what it takes to find it.

What the log knows as well stays there: an event's id, its times, and where the events of a run are.
"""

from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeAlias, cast

import msgspec

from eventstore.places import place_of_end
from eventstore.sqlite3_module import sqlite3
from projections.engine.inserting import Rows
from projections.engine.names import Names
from projections.engine.opening import Folded
from projections.engine.view import Decoded, View
from runfold.envelope import SYSTEM_STREAM, Fact
from runfold.events import EVENT_TYPES, Failure

TEXT_CHARS_MAX = 200
SORTS_HELD_MAX = 50_000
POSITION_MAX = 2**53 - 1
BLOCK_BITS = 8
"""So many bits of a position are left out of its block's number: a block is 256 positions."""
_TEXT_FIELDS = (
    "text", "title", "refused", "code", "reason_code", "step", "unit", "tool", "limit", "key", "value", "kind",
    "name", "command", "approval_id", "summary", "comment", "message", "reason", "error", "worker",
)  # fmt: skip
_UNSAID = frozenset([("run_archived", "summary")])  # Not in few words: it is what views are folded from.
_DDL = (
    """CREATE TABLE audit_runs (
        name_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        first INTEGER NOT NULL -- The position of the first row about it.
    ) STRICT""",
    # Where the system stream tells of a run: what the run itself says is found in the log.
    """CREATE TABLE audit_about (
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (run, position)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE audit_paths (
        name_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT""",
    # Whose, what, by whom: few of these for many events, and what most questions are about.
    """CREATE TABLE audit_kinds (
        kind INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        type TEXT NOT NULL,
        actor TEXT NOT NULL,
        is_system INTEGER NOT NULL -- 1 for events of the system stream, which stand under the run they are about.
    ) STRICT""",
    # Where in the audit there are events of a kind, and how many: an index would have each of them, and sorting so few
    # values so often is what a rebuild would wait for.
    f"""CREATE TABLE audit_blocks (
        kind INTEGER NOT NULL,
        block INTEGER NOT NULL, -- position >> {BLOCK_BITS}
        events INTEGER NOT NULL,
        PRIMARY KEY (kind, block)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE audit (
        position INTEGER PRIMARY KEY,
        run INTEGER NOT NULL, -- Of audit_runs.
        kind INTEGER NOT NULL, -- Of audit_kinds.
        text TEXT NOT NULL, -- The beginning of what it says.
        path INTEGER, -- Of audit_paths.
        cause BLOB, -- A UUID, as is the next.
        command BLOB
    ) STRICT""",
    "CREATE INDEX audit_path ON audit (path) WHERE path IS NOT NULL",
    "CREATE INDEX audit_cause ON audit (cause) WHERE cause IS NOT NULL",
)
_EARLIEST = "UPDATE SET first = min(first, excluded.first)"
_OF_ALL = ("position", "run", "kind", "text")
_OF_SOME = ("path", "cause", "command")


class AuditFold:
    def __init__(self) -> None:
        self._runs: Names[str] = Names("audit_runs", more=1, known=_EARLIEST)
        self._paths: Names[str] = Names("audit_paths")
        self._kinds: Names[tuple[str, str, str, bool]] = Names("audit_kinds", texts=4)
        """Of tenant, type, actor, and whether it is of the system stream."""
        self._sorts: dict[tuple[str, str, str, bool], _Sort] = {}
        """What the fold has to know of each of these."""
        # By which of _OF_SOME there are: 1, 2, 4 and their sums.
        self._rows = tuple(
            Rows("audit", (*_OF_ALL, *(name for bit, name in enumerate(_OF_SOME) if some >> bit & 1)))
            for some in range(1 << len(_OF_SOME))
        )
        self._about = Rows("audit_about", ("run", "position"))
        self._blocks = Rows(
            "audit_blocks",
            ("kind", "block", "events"),
            known="ON CONFLICT DO UPDATE SET events = events + excluded.events",
        )
        self._block = 0
        self._in_block: list[int] = []
        """The kinds of the events of this block that are not yet among the rows."""

    def apply(self, connection: sqlite3.Connection, recorded: Fact, event: Decoded) -> None:
        run_id, position, is_system = recorded.run_id, recorded.position, False
        if run_id == SYSTEM_STREAM:
            run_id, is_system = getattr(event, "run_id", "") or run_id, True
        sort = recorded.tenant, recorded.type, recorded.actor, is_system
        known = self._sorts.get(sort) or self._sort(sort)
        kind, has_path, say = known
        path, text = None, ""
        if event is not None:
            path, text = self._paths[event.path] if has_path else None, say(event)  # type: ignore[union-attr]
        run = self._runs.get(run_id) or self._runs.learn(run_id, position)
        if position >> BLOCK_BITS != self._block:
            self._leave_block(connection)
            self._block = position >> BLOCK_BITS
        self._in_block.append(kind)
        cause, command = recorded.cause, recorded.command
        if path is None and cause is None and command is None:
            rows = self._rows[0]
            rows += (position, run, kind, text)
        else:
            some = (path is not None) + 2 * (cause is not None) + 4 * (command is not None)
            rows = self._rows[some]
            rows += (position, run, kind, text)
            rows += [value for value in (path, cause, command) if value is not None]
        if len(rows) >= rows.full:
            rows.write(connection)
        if is_system:
            self._tell_about(connection, run, position)

    def _sort(self, sort: tuple[str, str, str, bool]) -> "_Sort":
        known = self._sorts[sort] = (self._kinds[sort], *_teller(sort[1]))
        return known

    def _tell_about(self, connection: sqlite3.Connection, run: int, position: int) -> None:
        rows = self._about
        rows += (run, position)
        if len(rows) >= rows.full:
            rows.write(connection)

    def _leave_block(self, connection: sqlite3.Connection) -> None:
        rows = self._blocks
        for kind, events in Counter(self._in_block).items():
            rows += (kind, self._block, events)
            if len(rows) >= rows.full:
                rows.write(connection)
        self._in_block.clear()

    def write(self, connection: sqlite3.Connection) -> None:
        self._leave_block(connection)
        for names in (self._runs, self._paths, self._kinds):
            names.write(connection)
        for rows in (self._blocks, self._about, *self._rows):
            rows.write(connection)
        if len(self._sorts) > SORTS_HELD_MAX:
            self._sorts.clear()

    def forget(self) -> None:
        for names in (self._runs, self._paths, self._kinds):
            names.forget()
        for rows in (self._blocks, self._about, *self._rows):
            rows.clear()
        self._sorts.clear()
        self._in_block.clear()


def _drop(connection: sqlite3.Connection, run_id: str) -> None:
    """Take out what a run itself said, and the names, paths and kinds that nobody else says."""
    known = connection.execute("SELECT name_id, first FROM audit_runs WHERE name = ?", (run_id,)).fetchone()
    if known is None:
        return
    run, first = known
    # Its rows are found between its first and its last event: the log may have none of them any more.
    log = connection.log if isinstance(connection, Folded) else None
    end = None if log is None else place_of_end(log, run_id)
    within = (run, first, POSITION_MAX if end is None else end)
    mine = (
        "FROM audit WHERE run = ? AND kind IN (SELECT kind FROM audit_kinds WHERE NOT is_system)"
        " AND position BETWEEN ? AND ?"
    )
    paths = connection.execute(f"SELECT DISTINCT path {mine} AND path IS NOT NULL", within).fetchall()
    counts = connection.execute(
        f"SELECT kind, position >> {BLOCK_BITS}, count(*) {mine} GROUP BY 1, 2", within
    ).fetchall()
    connection.execute(f"DELETE {mine}", within)
    connection.executemany(
        "DELETE FROM audit_paths WHERE name_id = ?1 AND NOT EXISTS (SELECT 1 FROM audit WHERE path = ?1)", paths
    )
    left = connection.execute("SELECT min(position) FROM audit_about WHERE run = ?", (run,)).fetchone()[0]
    if left is None:
        connection.execute("DELETE FROM audit_runs WHERE name_id = ?", (run,))
    else:
        connection.execute("UPDATE audit_runs SET first = ? WHERE name_id = ?", (left, run))
    connection.executemany("UPDATE audit_blocks SET events = events - ?3 WHERE kind = ?1 AND block = ?2", counts)
    connection.executemany("DELETE FROM audit_blocks WHERE kind = ?1 AND block = ?2 AND events = 0 AND ?3", counts)
    connection.executemany(
        "DELETE FROM audit_kinds WHERE kind = ?1 AND NOT EXISTS (SELECT 1 FROM audit_blocks WHERE kind = ?1)",
        {(kind,) for kind, _, _ in counts},
    )


_Teller: TypeAlias = tuple[bool, Callable[[Any], str]]
_Sort: TypeAlias = tuple[int, bool, Callable[[Any], str]]
"""Its kind, and how its events tell themselves."""


def _teller(type_name: str) -> _Teller:
    """Whether events of a type name a path, and what they say in few words: made once, as every event is asked."""
    kind = EVENT_TYPES.get(type_name)
    if kind is None:
        return False, lambda event: bytes(event.data)[:TEXT_CHARS_MAX].decode("utf-8", "ignore")
    has_path = "path" in kind.__struct_fields__
    fields = tuple(name for name in _TEXT_FIELDS if name in kind.__struct_fields__ and (type_name, name) not in _UNSAID)
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
    return "" if value is None else msgspec.json.encode(value).decode("utf-8", "ignore")[:TEXT_CHARS_MAX]


VIEW = View(
    name="audit",
    revision=5,
    tables=("audit_runs", "audit_about", "audit_paths", "audit_kinds", "audit_blocks", "audit"),
    ddl=_DDL,
    make_fold=AuditFold,
    wants=lambda type_name: type_name != "subprocess_output",
    causes=True,
    system=True,
    drop=_drop,
)

"""Finding rows of the audit: by kind in blocks that hold one, by run where the log has it, or else among all."""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec

from eventstore.places import first_since
from eventstore.rows import uuid_bytes
from eventstore.sqlite3_module import sqlite3
from projections.audit.fold import BLOCK_BITS, POSITION_MAX
from projections.audit.places import DAY_US, blocks_of, days_of, places_of
from projections.audit.question import AuditFilter, bad
from projections.engine.opening import Folded
from runfold.envelope import A_MOMENT, moment_us, time_text
from runfold.errors import BadRequest
from runfold.events import EVENT_CLASSES, EventClass, event_class

KINDS_MAX = 500  # Of which the blocks are merged; who asks for more kinds finds them by looking at every row.
RUNS_MAX = 100  # Of which the positions are merged; as with kinds.
PLACES_MAX = 100_000  # Who counts by groups in more of them looks at every row.
ROWS_AT_FIRST = 4 << BLOCK_BITS
ROWS_TOGETHER = 256 << BLOCK_BITS  # Some milliseconds of looking.

# What is shown of a row that was found; its id and when it happened stand in the log.
SHOWN = """SELECT a.position, run.name, runs.workflow, kind.tenant, kind.type, kind.actor, path.name, a.text"""
JOINS = """JOIN audit_runs run ON run.name_id = a.run JOIN audit_kinds kind ON kind.kind = a.kind
    LEFT JOIN audit_paths path ON path.name_id = a.path LEFT JOIN runs ON runs.run_id = run.name"""
_RUN = "JOIN audit_runs run ON run.name_id = found.key"
_KIND = "JOIN audit_kinds kind ON kind.kind = found.key"
_GROUPED = {
    "actor": ("a.kind", _KIND, "kind.actor"),
    "type": ("a.kind", _KIND, "kind.type"),
    "class": ("a.kind", _KIND, "kind.type"),
    "run_id": ("a.run", _RUN, "run.name"),
    "workflow": ("a.run", f"{_RUN} LEFT JOIN runs ON runs.run_id = run.name", "runs.workflow"),
    "tenant": ("a.kind", _KIND, "kind.tenant"),
    "path": ("a.path", "LEFT JOIN audit_paths path ON path.name_id = found.key", "path.name"),
}
"""What the rows are counted by, what names it, and the name; a day is counted where the log says that it was."""
_ALL = "audit a WHERE a.position BETWEEN ? AND ?"
# One range, or SQLite may take the wider one for each block.
_OF_BLOCKS = f"""json_each(?) block CROSS JOIN audit a ON a.position
    BETWEEN max(block.value << {BLOCK_BITS}, ?) AND min((block.value + 1 << {BLOCK_BITS}) - 1, ?)"""
_OF_PLACES = "json_each(?) place CROSS JOIN audit a ON a.position = place.value AND a.position BETWEEN ? AND ?"
_encode = msgspec.json.Encoder().encode


class Search:
    """The rows that match; every piece of its texts is one of ours."""

    def __init__(self, connection: sqlite3.Connection, wanted: AuditFilter) -> None:
        """Raises BadRequest."""
        for name in ("tenant", "run_id", "workflow", "path", "q", "cause", "command"):
            _check_text(name, getattr(wanted, name))
        self._connection = connection
        self._log = connection.log if isinstance(connection, Folded) else None
        self._is_descending = wanted.order == "desc"
        first, last = 1, POSITION_MAX
        if wanted.since is not None:
            first = self._first_since(_time("since", wanted.since))
        if wanted.until is not None:
            last = self._first_since(_time("until", wanted.until)) - 1
        self._whole = first, last
        self._where, self._parameters = _where(wanted)
        self._is_by_kind = not (self._where or wanted.since or wanted.until)
        """Whether nothing is asked for but kinds, whose events are counted."""
        self._kinds: list[int] | None = None
        self._runs: list[str] | None = None
        """Whose blocks, or places, are looked through; where neither is given all rows are, or what an index gives."""
        which, names = _which_kinds(wanted)
        if which:
            which = f"SELECT kind FROM audit_kinds WHERE {which}"  # noqa: S608
            kinds = [kind for (kind,) in connection.execute(f"{which} LIMIT ?", [*names, KINDS_MAX + 1])]
            if len(kinds) <= KINDS_MAX:
                self._where += f" AND a.kind IN ({', '.join(map(str, kinds))})"
                self._kinds = kinds
            else:
                self._where += f" AND a.kind IN ({which})"
                self._parameters += names
        if wanted.run_id or wanted.workflow or wanted.path or wanted.cause:
            self._kinds = None
        if self._log is not None and not wanted.cause and (wanted.run_id or not wanted.path):
            self._runs = _which_runs(connection, wanted)

    def _first_since(self, moment_us: int) -> int:
        return 1 if self._log is None else first_since(self._log, moment_us)

    def count(self, most: int) -> int:
        """How many there are, counted up to `most`."""
        if self._is_by_kind:
            found: int = self._connection.execute(
                f"SELECT COALESCE(sum(a.events), 0) FROM audit_blocks a WHERE 1{self._where}",  # noqa: S608
                self._parameters,
            ).fetchone()[0]
            return min(found, most)
        return self._count_within(self._whole, most)

    def page(self, most: int, *, cursor: int | None = None) -> list[tuple[Any, ...]]:
        """SHOWN of the first of them, or of the first after the position `cursor`."""
        first, last = self._whole
        if cursor is not None:
            first, last = (first, min(last, cursor - 1)) if self._is_descending else (max(first, cursor + 1), last)
        order = "DESC" if self._is_descending else "ASC"
        rows = list[tuple[Any, ...]]()
        with closing(self._sources((first, last))) as sources:
            for source, parameters in sources:
                query = (
                    f"{SHOWN} FROM (SELECT a.* FROM {source} ORDER BY a.position {order} LIMIT ?) a"  # noqa: S608
                    f" {JOINS} ORDER BY a.position {order}"
                )
                rows += self._connection.execute(query, [*parameters, most - len(rows)]).fetchall()
                if len(rows) >= most:
                    break
        return rows

    def grouped(self, by: str, most: int) -> Sequence[tuple[str | None, int]]:
        """The name of each group and how many there are in it."""
        if by == "day":
            return self._by_day(most)
        key, join, name = _GROUPED[by]
        if self._is_by_kind and key == "a.kind":
            counted, parameters = f"sum(a.events) AS events FROM audit_blocks a WHERE 1{self._where}", self._parameters
        else:
            source, parameters = self._source_of_all()
            counted = f"count(*) AS events FROM {source}"
        return self._connection.execute(
            f"SELECT {name}, sum(events) FROM (SELECT {key} AS key, {counted} GROUP BY 1) found"  # noqa: S608
            f" {join} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
            [*parameters, most],
        ).fetchall()

    def _by_day(self, most: int) -> list[tuple[str, int]]:
        counts = [
            (day, self._count_within((first, last), POSITION_MAX))
            for day, first, last in days_of(self._log, *self._whole)
        ]
        found = [(time_text(day * DAY_US)[:10], count) for day, count in counts if count]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:most]

    def _count_within(self, within: tuple[int, int], most: int) -> int:
        found = 0
        with closing(self._sources(within)) as sources:
            for source, parameters in sources:
                query = f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT ?)"  # noqa: S608
                found += self._connection.execute(query, [*parameters, most - found]).fetchone()[0]
                if found >= most:
                    break
        return found

    def _sources(self, within: tuple[int, int]) -> Generator[tuple[str, list[Any]]]:
        """What is looked through, one part after the other, more with each, with the parameters of each."""
        end = [*within, *self._parameters]
        numbers = self._numbers(within)
        if numbers is None:
            yield f"{_ALL}{self._where}", end
            return
        of_what, rows_of_each = (_OF_PLACES, 1) if self._runs is not None else (_OF_BLOCKS, 1 << BLOCK_BITS)
        rows = ROWS_AT_FIRST
        with closing(numbers):
            while some := list(islice(numbers, rows // rows_of_each)):
                yield f"{of_what}{self._where}", [_encode(some).decode(), *end]
                rows = min(2 * rows, ROWS_TOGETHER)

    def _source_of_all(self) -> tuple[str, list[Any]]:
        """The same as one part."""
        end = [*self._whole, *self._parameters]
        numbers = self._numbers(self._whole)
        if numbers is not None:
            with closing(numbers):
                some = list(islice(numbers, PLACES_MAX + 1))
            if len(some) <= PLACES_MAX:
                of_what = _OF_PLACES if self._runs is not None else _OF_BLOCKS
                return f"{of_what}{self._where}", [_encode(some).decode(), *end]
        return f"{_ALL}{self._where}", end

    def _numbers(self, within: tuple[int, int]) -> Generator[int] | None:
        """The places, or else the blocks, to be looked through; None for all."""
        first, last = within
        if self._runs is not None and self._log is not None:
            return places_of(self._connection, self._log, self._runs, first, last, is_descending=self._is_descending)
        if self._kinds is not None:
            ends = first >> BLOCK_BITS, last >> BLOCK_BITS
            return blocks_of(self._connection, self._kinds, *ends, is_descending=self._is_descending)
        return None


def _which_runs(connection: sqlite3.Connection, wanted: AuditFilter) -> list[str] | None:
    """The runs that are asked for; None for all, and for too many."""
    if wanted.run_id is not None:
        return [wanted.run_id]
    if wanted.workflow is None:
        return None
    query = "SELECT run_id FROM runs WHERE workflow = ? LIMIT ?"
    runs = [run_id for (run_id,) in connection.execute(query, (wanted.workflow, RUNS_MAX + 1))]
    return runs if len(runs) <= RUNS_MAX else None


def _which_kinds(wanted: AuditFilter) -> tuple[str, list[str]]:
    """The condition on kinds, empty where any will do, and its parameters."""
    clauses, parameters = list[str](), list[str]()
    if wanted.tenant is not None:
        clauses.append("tenant = ?")
        parameters.append(wanted.tenant)
    for clause, values in (_actors(wanted.actor), _types(wanted.type, wanted.classes)):
        if clause:
            clauses.append(clause)
            parameters += values
    return " AND ".join(clauses), parameters


def _where(wanted: AuditFilter) -> tuple[str, list[Any]]:
    """All that is asked for but times and kinds, each part after an AND."""
    clauses, parameters = list[str](), list[Any]()

    def add(clause: str, *values: Any) -> None:
        clauses.append(f" AND {clause}")
        parameters.extend(values)

    if wanted.run_id is not None:
        add("a.run = (SELECT name_id FROM audit_runs WHERE name = ?)", wanted.run_id)
    if wanted.workflow is not None:
        add(
            "a.run IN (SELECT name_id FROM audit_runs WHERE name IN (SELECT run_id FROM runs WHERE workflow = ?))",
            wanted.workflow,
        )
    if wanted.path is not None:
        is_pattern = wanted.path.endswith("/") or any(character in wanted.path for character in "*?[")
        text = f"{_literal(wanted.path)}*" if wanted.path.endswith("/") else wanted.path
        sign = "GLOB" if is_pattern else "="
        add(f"a.path IN (SELECT name_id FROM audit_paths WHERE name {sign} ?)", text)  # noqa: S608
    if wanted.q:
        text = wanted.q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        add(r"a.text LIKE ? ESCAPE '\'", f"%{text}%")
    if wanted.cause is not None:
        add("a.cause = ?", _identity(wanted.cause))
    if wanted.command is not None:
        add("a.command = ?", _identity(wanted.command))
    return "".join(clauses), parameters


def _actors(actors: tuple[str, ...]) -> tuple[str, list[str]]:
    clauses, values = list[str](), list[str]()
    for actor in actors:
        _check_text("actor", actor)
        # One without a name, such as `user`, means all of them; `system` has no names.
        clauses.append("actor = ?" if ":" in actor else "actor = ? OR actor GLOB ?")
        values += [actor] if ":" in actor else [actor, f"{_literal(actor)}:*"]
    return f"({' OR '.join(clauses)})" if clauses else "", values


def _types(types: tuple[str, ...], classes: tuple[EventClass, ...]) -> tuple[str, list[str]]:
    for name in types:
        _check_text("type", name)
    if not types and not classes:
        return "", []
    if types:
        names, sign = [name for name in types if not classes or event_class(name) in classes], "IN"
    elif "activity" in classes:
        # What is of no known type is activity.
        names, sign = [name for name, kind in EVENT_CLASSES.items() if kind not in classes], "NOT IN"
    else:
        names, sign = [name for name, kind in EVENT_CLASSES.items() if kind in classes], "IN"
    return f"type {sign} ({', '.join('?' * len(names))})", names


def _literal(text: str) -> str:
    """A text as a pattern that means just itself."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _identity(text: str) -> bytes:
    """The UUID as it is stored; what is none names nothing."""
    try:
        return uuid_bytes(text)
    except BadRequest:
        return b""


def _time(name: str, text: str) -> int:
    try:
        return moment_us(text)
    except (ValueError, OverflowError):
        raise bad(name, ascii(text)[1:-1], A_MOMENT) from None


def _check_text(name: str, text: str | None) -> None:
    if text is not None and not text.isascii() and text.encode("utf-8", "replace").decode() != text:
        raise bad(name, ascii(text)[1:-1], "text without half characters")

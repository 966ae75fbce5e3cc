"""Who did what when: every event but output, found and counted by actor, type, run, path, text, time and cause."""

from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from eventstore.reading import uuid_bytes, uuid_text
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import A_MOMENT, moment_us, time_text
from runfold.errors import BadRequest
from runfold.events import EVENT_CLASSES, EventClass, event_class

LIMIT_MAX = 200
TOTAL_MAX = 10_000  # Who finds more will not count them one by one, and counting millions keeps others waiting.
Group: TypeAlias = Literal["actor", "type", "class", "run_id", "workflow", "tenant", "path", "day"]
GROUPS: tuple[str, ...] = get_args(Group)


class AuditQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; several of one kind mean any of them.

    An actor without `:` is a kind; a path ending in `/` is a folder, one with `*`, `?` or `[` a pattern, any other
    the file itself. `since` and `until` are times of recording, RFC 3339 with an offset.
    """

    actor: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")
    run_id: str | None = None
    workflow: str | None = None
    path: str | None = None
    q: str | None = None
    since: str | None = None
    until: str | None = None
    cause: str | None = None
    command: str | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None


class AuditFilter(AuditQuestion, frozen=True, kw_only=True):
    """Whose: `tenant` None means all."""

    tenant: str | None

    @classmethod
    def of(cls, question: AuditQuestion, *, tenant: str | None) -> "AuditFilter":
        asked = {name: getattr(question, name) for name in AuditQuestion.__struct_fields__}
        return cls(tenant=tenant, **asked)


class AuditItem(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `run_id` is the run it is about, also where it stands on the system stream."""

    position: int
    run_id: str
    tenant: str
    workflow: str | None
    type: str
    event_class: str = msgspec.field(name="class")
    actor: str
    path: str | None
    text: str
    at: str
    recorded_at: str
    id: str
    cause: str | None
    command: str | None


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """`total` is null where more match than are counted; `next_cursor` is null on the last page."""

    items: list[AuditItem]
    total: int | None
    next_cursor: str | None


class AuditCount(msgspec.Struct, frozen=True, kw_only=True):
    key: str | None
    count: int


SELECT = """SELECT a.position, run.name, tenant.name, runs.workflow, type.name, actor.name, path.name, a.text, a.at_us,
    a.recorded_at_us, a.id, a.cause, a.command"""
FROM = """FROM audit a
    JOIN audit_names run ON run.name_id = a.run JOIN audit_names tenant ON tenant.name_id = a.tenant
    JOIN audit_names type ON type.name_id = a.type JOIN audit_names actor ON actor.name_id = a.actor
    LEFT JOIN audit_paths path ON path.name_id = a.path LEFT JOIN runs ON runs.run_id = run.name"""
_KEYS = {
    "actor": "actor.name",
    "type": "type.name",
    "class": "type.name",
    "run_id": "run.name",
    "workflow": "runs.workflow",
    "tenant": "tenant.name",
    "path": "path.name",
    "day": "date(a.recorded_at_us / 1000000, 'unixepoch')",
}


def find_audit(connection: sqlite3.Connection, wanted: AuditFilter) -> AuditList:
    """One page of the events that match. Raises BadRequest, naming the parameter and what is allowed."""
    if wanted.order not in ("asc", "desc"):
        raise _bad("order", wanted.order, "asc, desc")
    if not 1 <= wanted.limit <= LIMIT_MAX:
        raise _bad("limit", wanted.limit, f"1 to {LIMIT_MAX}")
    where, parameters = _where(connection, wanted)
    # Every piece of these texts is one of ours; what the caller gave is in the parameters.
    total: int = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM audit a WHERE {where} LIMIT {TOTAL_MAX + 1})",  # noqa: S608
        parameters,
    ).fetchone()[0]
    if wanted.cursor is not None:
        where += f" AND a.position {'>' if wanted.order == 'asc' else '<'} ?"
        parameters = [*parameters, _position(wanted.cursor)]
    rows = connection.execute(
        f"{SELECT} {FROM} WHERE {where} ORDER BY a.position {wanted.order} LIMIT ?",
        [*parameters, wanted.limit + 1],
    ).fetchall()
    items = [item_of(row) for row in rows[: wanted.limit]]
    return AuditList(
        items=items,
        total=total if total <= TOTAL_MAX else None,
        next_cursor=str(items[-1].position) if len(rows) > wanted.limit else None,
    )


def count_audit(connection: sqlite3.Connection, wanted: AuditFilter, *, by: str) -> list[AuditCount]:
    """How many events match, by one of GROUPS: the largest groups first, `limit` of them."""
    if by not in GROUPS:
        raise _bad("by", by, f"one of {', '.join(GROUPS)}")
    where, parameters = _where(connection, wanted)
    # There are fewer types than LIMIT_MAX, so classes can be summed from them.
    limit = LIMIT_MAX if by == "class" else wanted.limit
    rows = connection.execute(
        f"SELECT {_KEYS[by]}, count(*) {FROM} WHERE {where} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
        [*parameters, limit],
    ).fetchall()
    if by == "class":
        sums: dict[str, int] = {}
        for name, count in rows:
            sums[event_class(name)] = sums.get(event_class(name), 0) + count
        rows = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[: wanted.limit]
    return [AuditCount(key=key, count=count) for key, count in rows]


def item_of(row: tuple[Any, ...]) -> AuditItem:
    position, run_id, tenant, workflow, kind, actor, path, text, at_us, recorded_at_us, identity, cause, command = row
    return AuditItem(
        position=position,
        run_id=run_id,
        tenant=tenant,
        workflow=workflow,
        type=kind,
        event_class=event_class(kind),
        actor=actor,
        path=path,
        text=text,
        at=time_text(at_us),
        recorded_at=time_text(recorded_at_us),
        id=uuid_text(identity),
        cause=None if cause is None else uuid_text(cause),
        command=None if command is None else uuid_text(command),
    )


_NAMED = "(SELECT name_id FROM audit_names WHERE {})"


def _where(connection: sqlite3.Connection, wanted: AuditFilter) -> tuple[str, list[Any]]:
    clauses, parameters = ["1"], list[Any]()

    def add(clause: str, *values: Any) -> None:
        clauses.append(clause)
        parameters.extend(values)

    for name in ("tenant", "run_id", "workflow", "path", "q", "cause", "command"):
        _check_text(name, getattr(wanted, name))
    if wanted.tenant is not None:
        add(f"a.tenant = {_NAMED.format('name = ?')}", wanted.tenant)
    if wanted.actor:
        clause, values = _actors(wanted.actor)
        add(clause, *values)
    if wanted.type or wanted.classes:
        clause, values = _types(wanted.type, wanted.classes)
        add(clause, *values)
    if wanted.run_id is not None:
        add(f"a.run = {_NAMED.format('name = ?')}", wanted.run_id)
    if wanted.workflow is not None:
        add(
            "a.run IN (SELECT name_id FROM audit_names WHERE name IN (SELECT run_id FROM runs WHERE workflow = ?))",
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
    for name, sign in (("since", ">="), ("until", "<")):
        moment = getattr(wanted, name)
        if moment is not None:
            add(f"a.position {sign} ?", _first_since(connection, _time(name, moment)))
    if wanted.cause is not None:
        add("a.cause = ?", _identity(wanted.cause))
    if wanted.command is not None:
        add("a.command = ?", _identity(wanted.command))
    return " AND ".join(clauses), parameters


def _actors(actors: tuple[str, ...]) -> tuple[str, list[str]]:
    clauses, values = list[str](), list[str]()
    for actor in actors:
        _check_text("actor", actor)
        # A kind alone, such as `user`, means all of them; `system` has no names.
        clauses.append("name = ?" if ":" in actor else "name = ? OR name GLOB ?")
        values += [actor] if ":" in actor else [actor, f"{_literal(actor)}:*"]
    return f"a.actor IN {_NAMED.format(' OR '.join(clauses))}", values


def _types(types: tuple[str, ...], classes: tuple[EventClass, ...]) -> tuple[str, list[str]]:
    for name in types:
        _check_text("type", name)
    if types:
        names, sign = [name for name in types if not classes or event_class(name) in classes], "IN"
    elif "activity" in classes:
        # What is of no known type is activity.
        names, sign = [name for name, kind in EVENT_CLASSES.items() if kind not in classes], "NOT IN"
    else:
        names, sign = [name for name, kind in EVENT_CLASSES.items() if kind in classes], "IN"
    marks = ", ".join("?" * len(names))
    return f"a.type {sign} {_NAMED.format(f'name IN ({marks})')}", names


def _literal(text: str) -> str:
    """A text as a pattern that means just itself."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _first_since(connection: sqlite3.Connection, moment_us: int) -> int:
    """The first position recorded at that time or later: the log's times never go back, so halving finds it."""
    low, high = 0, connection.execute("SELECT COALESCE(max(position), 0) + 1 FROM audit").fetchone()[0]
    while low + 1 < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT recorded_at_us FROM audit WHERE position >= ? ORDER BY position LIMIT 1", (middle,)
        ).fetchone()
        if row is not None and row[0] < moment_us:
            low = middle
        else:
            high = middle
    return int(high)


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
        raise _bad(name, ascii(text), A_MOMENT) from None


def _position(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 16:
        raise _bad("cursor", ascii(cursor), "the `next_cursor` of the page before")
    return int(cursor)


def _check_text(name: str, text: str | None) -> None:
    if text is not None and not text.isascii() and text.encode("utf-8", "replace").decode() != text:
        raise _bad(name, ascii(text), "text without half characters")


def _bad(name: str, value: object, allowed: str) -> BadRequest:
    return BadRequest(f"`{name}` is `{value}`; allowed: {allowed}", hint=f"change `{name}`, or leave it out")

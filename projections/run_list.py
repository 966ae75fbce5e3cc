"""The list of runs: filtered, counted by status, sorted, and read in pages by offset or by cursor."""

from typing import Any, get_args

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.envelope import A_MOMENT, moment_us
from runfold.errors import BadRequest
from runfold.snapshot import Snapshot
from runfold.state import Status

LIMIT_MAX = 200
OFFSET_MAX = 2**53 - 1
STATUSES: tuple[str, ...] = get_args(Status)
ORDERS = ("asc", "desc")
# What is not known sorts below everything that is, so every sort is a total order and a cursor can stand on it.
_SORT_KEYS = {
    "created_at": "created_at_us",
    "status": "status",
    "duration": "COALESCE(duration_us, -1)",
    "cost": "COALESCE(cost_micros, -1)",
}
_SORTED = {"status": "runs_by_status", "cost": "runs_by_cost", "duration": "runs_by_duration"}
_OF_EXPRESSIONS = frozenset({"duration", "cost"})
_decode_shown = msgspec.json.Decoder(list[Snapshot]).decode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
_decode_sizes = msgspec.json.Decoder(list[int]).decode
_decode_values = msgspec.json.Decoder(list[int | str]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What to list. `tenant` None means all; `label` is `key` or `key=value`; times are as `moment_us` takes them."""

    tenant: str | None
    status: tuple[str, ...] = ()
    workflow: str | None = None
    q: str | None = None
    label: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    sort: str = "created_at"
    order: str = "desc"
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """`total` counts all that match, on this page or not; `next_cursor` is null on the last page.

    `by_status` counts what the other filters leave, whatever statuses were asked for: what each of them would show.
    """

    items: list[Snapshot]
    total: int
    next_cursor: str | None
    by_status: dict[str, int]


class ShownRuns(msgspec.Struct, frozen=True, kw_only=True):
    """A RunList whose items are JSON: what the fold has made of each run."""

    items: msgspec.Raw
    total: int
    next_cursor: str | None
    by_status: dict[str, int]


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    sort: str
    order: str
    value: int | str
    run_id: str


def list_runs(connection: sqlite3.Connection, wanted: RunFilter) -> RunList:
    """One page of the runs that match. Raises BadRequest, naming the parameter and what is allowed."""
    found = list_shown(connection, wanted)
    return RunList(
        items=_decode_shown(found.items),
        total=found.total,
        next_cursor=found.next_cursor,
        by_status=found.by_status,
    )


def list_shown(connection: sqlite3.Connection, wanted: RunFilter) -> ShownRuns:
    """The same, ready to be sent: nothing of a run is decoded."""
    _check(wanted)
    key = _SORT_KEYS[wanted.sort]
    where, parameters = _where(wanted)
    by_status = _by_status(connection, wanted, where, parameters)
    if wanted.status:
        where += f" AND status IN ({', '.join('?' * len(wanted.status))})"
        parameters += wanted.status
    if wanted.cursor is not None:
        cursor = _decode_cursor(wanted.cursor, wanted)
        sign = ">" if wanted.order == "asc" else "<"
        where += f" AND ({key}, run_id) {sign} (?, ?)"
        parameters += [cursor.value, cursor.run_id]
        if wanted.sort in _OF_EXPRESSIONS:
            # It says less, but in an index of expressions it is all that SQLite can look for.
            where += f" AND {key} {sign}= ?"
            parameters.append(cursor.value)
    content, sizes, values, run_ids = _page(connection, wanted, key, where, parameters)
    next_cursor = None
    if len(sizes) > wanted.limit:
        content = content[: -sizes[-1] - len(b",")]
        next_cursor = _encode_cursor(_Cursor(wanted.sort, wanted.order, values[-2], run_ids[-2]))
    return ShownRuns(
        items=msgspec.Raw(b"[%b]" % content),
        total=sum(count for status, count in by_status.items() if not wanted.status or status in wanted.status),
        next_cursor=next_cursor,
        by_status={status: count for status, count in by_status.items() if status},
    )


def _page(
    connection: sqlite3.Connection, wanted: RunFilter, key: str, where: str, parameters: list[Any]
) -> tuple[bytes, list[int], list[int | str], list[str]]:
    """What is shown of the runs on the page and of the one after it, commas between; of each its size, key and id.

    It is one row: for every row that is fetched the thread lets others go first, and waits for its turn again.
    """
    # Every piece of this text is one of ours; what the caller gave is in the parameters. What is shown of a run is read
    # of those alone that are on the page.
    content, sizes, values, run_ids = connection.execute(
        "SELECT CAST(group_concat(shown) AS BLOB), json_group_array(length(shown)), json_group_array(key),"  # noqa: S608
        f" json_group_array(page.run_id) FROM (SELECT {key} AS key, run_id, rowid AS place"
        f" FROM runs INDEXED BY {_index_of(wanted)} WHERE {where}"
        f" ORDER BY {key} {wanted.order}, run_id {wanted.order} LIMIT ? OFFSET ?) AS page"
        " CROSS JOIN runs ON runs.rowid = page.place",
        [*parameters, wanted.limit + 1, wanted.offset],
    ).fetchone()
    return content or b"", _decode_sizes(sizes), _decode_values(values), _decode_ids(run_ids)


def _index_of(wanted: RunFilter) -> str:
    """What holds everything that is asked for, in order where that can be."""
    if wanted.sort in _SORTED and wanted.tenant is not None and not wanted.q and wanted.label is None:
        return _SORTED[wanted.sort]
    return "runs_listed"


def _by_status(connection: sqlite3.Connection, wanted: RunFilter, where: str, parameters: list[Any]) -> dict[str, int]:
    is_counted = not (wanted.q or wanted.workflow == "" or wanted.created_after or wanted.created_before)
    if not is_counted or wanted.label is not None:
        counted = f"SELECT status, count(*) AS found FROM runs INDEXED BY runs_listed WHERE {where}"  # noqa: S608
    else:
        counted = f"SELECT status, sum(runs) AS found FROM run_counts WHERE {where}"  # noqa: S608
    row = connection.execute(
        f"SELECT json_group_object(status, found) FROM ({counted} GROUP BY status ORDER BY status)",  # noqa: S608
        parameters,
    ).fetchone()
    return _decode_counts(row[0])


def _check(wanted: RunFilter) -> None:
    if wanted.sort not in _SORT_KEYS:
        raise _bad("sort", wanted.sort, f"one of {', '.join(_SORT_KEYS)}")
    if wanted.order not in ORDERS:
        raise _bad("order", wanted.order, f"one of {', '.join(ORDERS)}")
    if not 1 <= wanted.limit <= LIMIT_MAX:
        raise _bad("limit", wanted.limit, f"1 to {LIMIT_MAX}")
    if not 0 <= wanted.offset <= OFFSET_MAX:
        raise _bad("offset", wanted.offset, f"0 to {OFFSET_MAX}")
    if wanted.offset and wanted.cursor is not None:
        raise _bad("offset", wanted.offset, "0 together with `cursor`")
    for status in wanted.status:
        if status not in STATUSES:
            raise _bad("status", status, f"one of {', '.join(STATUSES)}")
    for name in ("tenant", "workflow", "q", "label"):
        text = getattr(wanted, name)
        if text is not None and not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            raise _bad(name, ascii(text)[1:-1], "text without half characters")


def _where(wanted: RunFilter) -> tuple[str, list[Any]]:
    """Everything but the status, of which each is counted."""
    clauses, parameters = ["1"], list[Any]()

    def add(clause: str, *values: Any) -> None:
        clauses.append(clause)
        parameters.extend(values)

    if wanted.tenant is not None:
        add("tenant = ?", wanted.tenant)
    if wanted.workflow is not None:
        add("workflow = ?", wanted.workflow)
    if wanted.created_after is not None:
        add("created_at_us >= ?", _time_us("created_after", wanted.created_after))
    if wanted.created_before is not None:
        add("created_at_us < ?", _time_us("created_before", wanted.created_before))
    if wanted.label is not None:
        key, equals, value = wanted.label.partition("=")
        if not key:
            raise _bad("label", wanted.label, "`key` or `key=value`")
        if equals:
            add("EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ? AND value = ?)", key, value)
        else:
            add("EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ?)", key)
    if wanted.q:
        text = wanted.q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        # Most runs are told apart by the labels' text as it stands, which JSON writes otherwise for few characters.
        is_plain = wanted.q.isprintable() and not {'"', "\\"} & set(wanted.q)
        add(
            r"(run_id LIKE ? ESCAPE '\' OR title LIKE ? ESCAPE '\' OR (labels LIKE ? ESCAPE '\' AND EXISTS ("
            r"SELECT 1 FROM json_each(labels) WHERE key LIKE ? ESCAPE '\' OR value LIKE ? ESCAPE '\')))",
            f"{text}%",
            f"%{text}%",
            f"%{text}%" if is_plain else "%",
            *[f"%{text}%"] * 2,
        )
    return " AND ".join(clauses), parameters


def _time_us(name: str, text: str) -> int:
    try:
        return moment_us(text)
    except (ValueError, OverflowError):
        raise _bad(name, text, A_MOMENT) from None


def _encode_cursor(cursor: _Cursor) -> str:
    import base64

    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _decode_cursor(text: str, wanted: RunFilter) -> _Cursor:
    import base64

    allowed = "the `next_cursor` of a list with the same sort and order"
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        cursor = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=_Cursor)
    except (ValueError, msgspec.DecodeError):
        raise _bad("cursor", ascii(text)[1:-1], allowed) from None
    is_text = isinstance(cursor.value, str)
    if (cursor.sort, cursor.order) != (wanted.sort, wanted.order) or is_text != (wanted.sort == "status"):
        raise _bad("cursor", text, allowed)
    if isinstance(cursor.value, int) and not -(2**63) <= cursor.value < 2**63:
        raise _bad("cursor", text, allowed)
    return cursor


def _bad(name: str, value: object, allowed: str) -> BadRequest:
    return BadRequest(f"`{name}` is `{value}`; allowed: {allowed}", hint=f"change `{name}`, or leave it out")

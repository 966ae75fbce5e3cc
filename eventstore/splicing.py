"""Frames made of the columns of the log as they are: no event becomes an object, and what repeats is written once.

SQLite gives each column of many events as one text, and holds up nobody meanwhile; the rest is done by columns too.
The same bytes as `framed` gives, which stays the plain words for what is done here; a test holds them side by side.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate, compress, pairwise, repeat
from typing import NamedTuple, TypeAlias

import msgspec

from eventstore.framing import Framed, Framing, lead_of, one_line
from eventstore.reading import check_page, end_of, read_page, version_at
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import actor_json, time_text
from runfold.errors import Damaged
from runfold.events import event_class

FRAMES_BYTES = 96 * 1024  # What a client that takes nothing makes us hold, beside what its connection costs.
PAGE_ROWS = 128  # So many common events fill a page.
TEXTS_KEPT_MAX = 1_024  # Of each kind of text that was written once; at most a few hundred bytes each.
OF_ANOTHER_KIND = (AttributeError, TypeError, ValueError, struct.error, msgspec.DecodeError)
_SECOND_US = 1_000_000
_ID = struct.Struct("8s4s4s4s12s")
_COLUMNS = (
    "position, version, id, hash,"
    " CASE WHEN length(sent) > 0 THEN '\"' || lower(hex(sent)) || '\"' ELSE 'null' END AS sent,"
    " CAST(json_array(type, schema, tenant, actor, run_id, correlation, at_us, recorded_at_us, hex(cause),"
    " hex(command)) AS BLOB) AS common, coalesce(data, CAST('null' AS BLOB)) AS data"
)
_TEXTS = (
    "group_concat(position), group_concat(version), CAST(group_concat(id, '') AS BLOB),"
    " CAST(group_concat(hash, '') AS BLOB), group_concat(sent), CAST(group_concat(common, '') AS BLOB),"
    " group_concat(length(common)), CAST(group_concat(data, '') AS BLOB), group_concat(length(data))"
)
_OF_ALL = (
    f"SELECT {_TEXTS} FROM (SELECT {_COLUMNS} FROM events"  # noqa: S608
    " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?)"
)
_OF_ONE = (
    f"SELECT {_TEXTS} FROM (SELECT {_COLUMNS} FROM events"  # noqa: S608
    " WHERE run_id = ? AND version > ? AND position <= ? ORDER BY version LIMIT ?)"
)
_numbers = msgspec.json.Decoder(list[int]).decode
_decode = msgspec.json.Decoder(tuple[str, int, str, str, str, str, int, int, str, str]).decode
_encode = msgspec.json.Encoder().encode
_Common: TypeAlias = tuple[bool, bool, bytes, bytes, bytes, bytes]
"""Whether such events are wanted, and marked; then how their frames go on after the cursor, the position, the id and
what was sent."""


class _Columns(NamedTuple):
    """Of the next events; `commons`: what the events of one command have in common, as one text."""

    positions: str
    versions: str
    ids: bytes
    hashes: bytes
    sents: str
    commons: list[bytes]
    datas: list[bytes]


def read_framed(
    connection: sqlite3.Connection,
    *,
    after: int,
    framing: Framing,
    stream: str | None = None,
    rows_max: int = PAGE_ROWS,
) -> list[Framed]:
    """The next events after a position as pages: one or more, none above FRAMES_BYTES but where it is a single frame.

    Raises Trimmed, Diverged, and Damaged where no page before it is sound.
    """
    end = end_of(connection, after=after, stream=stream)
    try:
        columns = _read(connection, after=after, stream=stream, end=end, rows_max=rows_max)
        spliced = (
            [(Framed(content=b"", scanned_to=end, version=0, is_marked=False), list[int]())]
            if columns is None
            else list(_paged(columns, framing, end=end, rows_max=rows_max))
        )
    except OF_ANOTHER_KIND:
        # Only an altered file holds values of other kinds, and who reads it event by event is told.
        read_page(connection, after=after, stream=stream, limit=rows_max)
        raise
    pages: list[Framed] = []
    try:
        for page, positions in spliced:
            last_version = page.version if positions else None
            check_page(connection, positions, last_version, after=after, stream=stream, upto=page.scanned_to)
            pages.append(page)
            after = page.scanned_to
    except Damaged:
        # Whoever comes as far as the damage is told of it, and is given what is before it.
        if not pages:
            raise
    return pages


def _read(
    connection: sqlite3.Connection, *, after: int, stream: str | None, end: int, rows_max: int
) -> _Columns | None:
    if stream is None:
        found = connection.execute(_OF_ALL, (after, end, rows_max)).fetchone()
    else:
        version = version_at(connection, stream, after)
        found = connection.execute(_OF_ONE, (stream, version, end, rows_max)).fetchone()
    positions, versions, ids, hashes, sents, commons, common_sizes, data, data_sizes = found
    if positions is None:
        return None
    datas = _cut(data, data_sizes)
    if b"\n" in data or b"\r" in data:
        datas = [*map(one_line, datas)]
    return _Columns(positions, versions, ids, hashes, sents, _cut(commons, common_sizes), datas)


def _cut(texts: bytes, sizes: str) -> list[bytes]:
    """Texts that stand one after the other; much quicker than to look for what is between them."""
    ends = accumulate(_numbers(f"[{sizes}]"), initial=0)
    return [texts[start:end] for start, end in pairwise(ends)]


def _paged(columns: _Columns, framing: Framing, *, end: int, rows_max: int) -> Iterator[tuple[Framed, list[int]]]:
    """Frames, cut into pages, each with the places of its events; `end`: how far was looked where none are left."""
    positions, versions = _numbers(f"[{columns.positions}]"), _numbers(f"[{columns.versions}]")
    commons = [*map(_Written(lambda text: _common(text, framing)).__getitem__, columns.commons)]
    frames = _frames(columns, commons)
    ends = [*accumulate(map(len, frames), initial=0)]
    # Pages of about the same size, so that none is left with a frame or two.
    pages = -(-ends[-1] // FRAMES_BYTES) or 1
    size_bytes = min(FRAMES_BYTES, ends[-1] // pages + max(map(len, frames)))
    start, count = 0, len(frames)
    while start < count:
        stop = min(count, max(start + 1, bisect_right(ends, ends[start] + size_bytes, start) - 1))
        is_full = stop < count or count == rows_max
        page = Framed(
            content=b"".join(frames[start:stop]),
            scanned_to=positions[stop - 1] if is_full else end,
            version=max(versions[start:stop]),
            is_marked=any(common[1] for common in commons[start:stop]),
            is_full=is_full,
            rows=stop - start,
        )
        yield page, positions[start:stop]
        start = stop


def _frames(columns: _Columns, commons: list[_Common]) -> list[bytes]:
    """One of each event, empty where it is not wanted. No step here is taken event by event."""
    wanted, _, after_cursors, after_positions, after_ids, after_sents = zip(*commons, strict=True)
    positions, digits = columns.positions.encode().split(b","), columns.hashes.hex().encode()
    hashes = struct.unpack("64s" * len(commons), digits)
    parts: list[Iterable[bytes]] = [
        repeat(b"id: "),
        positions,
        repeat(b"-"),
        struct.unpack("8s56x" * len(commons), digits),
        after_cursors,
        positions,
        after_positions,
        columns.versions.encode().split(b","),
        repeat(b',"id":"'),
        map(b"-".join, _ID.iter_unpack(columns.ids.hex().encode())),
        after_ids,
        columns.sents.encode().split(b","),
        after_sents,
        hashes,
        repeat(b'","data":'),
        columns.datas,
        repeat(b"}\n\n"),
    ]
    if all(wanted):
        return [*map(b"".join, zip(*parts))]  # noqa: B905
    frames = map(b"".join, zip(*(compress(part, wanted) for part in parts)))  # noqa: B905
    return [next(frames) if is_wanted else b"" for is_wanted in wanted]


class _Written(dict[bytes, _Common]):
    """What was written once is not written again."""

    def __init__(self, write: Callable[[bytes], _Common]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, text: bytes) -> _Common:
        common = self[text] = self._write(text)
        return common


def _common(text: bytes, framing: Framing) -> _Common:
    name, schema, tenant, actor, run_id, correlation, at_us, recorded_at_us, cause, command = _decode(text)
    after_id = (
        f'","type":{_quoted(name)},"schema":{schema},"class":"{event_class(name)}","at":"{_time(at_us)}",'
        f'"recorded_at":"{_time(recorded_at_us)}","tenant":{_quoted(tenant)},"actor":{_actor(actor)},"cause":'
        f'{_id(cause)},"command":{_id(command)},"sent":'
    )
    after_sent = f',"correlation":{_quoted(correlation)},"hash":"'
    return *_beginning(name, tenant, run_id, framing), after_id.encode(), after_sent.encode()


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _beginning(name: str, tenant: str, run_id: str, framing: Framing) -> tuple[bool, bool, bytes, bytes]:
    return (
        framing.takes(run_id, tenant, name),
        name in framing.marks,
        f'\n{lead_of(name, named=framing.named)}data: {{"position":'.encode(),
        f',"run_id":{_quoted(run_id)},"version":'.encode(),
    )


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _quoted(text: str) -> str:
    return _encode(text).decode()


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _actor(actor: str) -> str:
    return actor_json(actor).decode()


@lru_cache(maxsize=TEXTS_KEPT_MAX)
def _second(second: int) -> str:
    return time_text(second * _SECOND_US)[:-7]


def _time(at_us: int) -> str:
    """As `time_text`; times of one second share the writing of its date."""
    second, micros = divmod(at_us, _SECOND_US)
    return f"{_second(second)}{micros:06d}Z"


def _id(digits: str) -> str:
    name = digits.lower()
    return f'"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"' if name else "null"

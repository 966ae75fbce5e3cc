"""Frames made of the columns of the log as they are: no event becomes an object, and what repeats is written once.

SQLite gives each column of many events as one text, and holds up nobody meanwhile; the rest is done by columns too.
The same bytes as `framed` gives, which stays the plain words for what is done here; a test holds them side by side.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import compress
from typing import NamedTuple, TypeAlias

import msgspec

from eventstore.blocks import BETWEEN, OF_RUN
from eventstore.columns import (
    HASH_BYTES,
    ID_BYTES,
    OF_ANOTHER_KIND,
    Columns,
    Common,
    OfCommons,
    OutOfOrder,
    Texts,
    columns_at,
    columns_between,
    columns_from,
    cut,
    cut_even,
)
from eventstore.framing import Framed, Framing, lead_of, one_line
from eventstore.moment import at_one_moment
from eventstore.reading import check_columns, check_page, end_of, is_checked, read_page, rows_after
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import actor_json, time_text
from runfold.errors import Damaged
from runfold.events import event_class

FRAMES_BYTES = 96 * 1024  # What a client that takes nothing makes us hold, beside what its connection costs.
PAGE_ROWS = 128  # So many common events fill a page.
FIRST_ROWS = 32  # For who waits for the first.
TEXTS_KEPT_MAX = 1_024  # Of each kind of text that was written once; at most a few hundred bytes each.
PAGE_BYTES = FRAMES_BYTES * 15 // 16  # What is aimed at: a page is cut by what its events are like on the whole.
_SECOND_US = 1_000_000
_ID_LENGTH = 36
_FRAME = [b"id: ", b"", b"-", *[b""] * 5, b',"id":"', *[b""] * 5, b'","data":', b"", b"}\n\n"]
_GIVEN = [place for place, part in enumerate(_FRAME) if not part]
"""Which parts of a frame are its event's."""
_SPAN = (
    "SELECT count(*), min(position), max(position)"  # noqa: S608
    f" FROM (SELECT position FROM {OF_RUN} WHERE {BETWEEN} ORDER BY block, version LIMIT ?4)"
)
_IS_ALONE = (
    "SELECT 1 FROM events AS first JOIN events AS last USING (run_id)"
    " WHERE run_id = ? AND first.position = ? AND last.position = ?"
    " AND last.version - first.version = last.position - first.position"
)
"""Whether all events from one place to another are the run's, unless somebody has put others there."""
_encode = msgspec.json.Encoder().encode


class _Spliced(NamedTuple):
    """Whether such events are wanted, and marked; then how their frames go on after the cursor, the position, the
    version, the id and what was sent."""

    is_wanted: bool
    is_marked: bool
    after_cursor: bytes
    after_position: bytes
    after_id: bytes
    sent_bytes: int
    after_sent: bytes


_Page: TypeAlias = tuple[Framed, list[int]]
"""A page, and where its events stand."""


class Found(NamedTuple):
    """The columns of the next events, how far they reach, and whether there is more."""

    columns: Columns | None
    upto: int
    is_full: bool


@at_one_moment
def read_found(
    connection: sqlite3.Connection,
    *,
    after: int,
    framing: Framing,
    stream: str | None,
    rows_max: int,
    end: int | None = None,
) -> tuple[Found, list[Framed]]:
    """The next events after a position, and their pages: one or more, none above FRAMES_BYTES but of a single frame.

    The pages do not reach the end of what was found where not all of it is sound. `end`: what `end_of` has said. Raises
    Trimmed, Diverged, and Damaged where no page before it is sound.
    """
    end = end_of(connection, after=after, stream=stream) if end is None else end
    try:
        found = _read(connection, after=after, stream=stream, end=end, rows_max=rows_max)
        if found.columns is not None:
            check_columns(connection, found.columns)
        spliced = [*_paged(found, framing)]
    except OF_ANOTHER_KIND as error:
        # Only an altered file holds values of other kinds: what is before them is found in smaller steps.
        if rows_max > 1 and not isinstance(error, OutOfOrder):
            return read_found(connection, after=after, framing=framing, stream=stream, rows_max=rows_max // 2, end=end)
        # Who reads it event by event is told.
        read_page(connection, after=after, stream=stream, limit=rows_max)
        raise
    try:
        _check(connection, spliced, after=after, stream=stream)
    except Damaged:
        # Whoever comes as far as the damage is told of it, and is given what is before it.
        spliced = [*_sound(connection, spliced, after=after, stream=stream)]
        if not spliced:
            raise
    return found, [page for page, _ in spliced]


def _check(connection: sqlite3.Connection, pages: list[_Page], *, after: int, stream: str | None) -> None:
    """See that pages that follow on each other have all that was appended. Raises Damaged."""
    last, _ = pages[-1]
    positions = [position for _, held in pages for position in held]
    check_page(connection, positions, last.version or None, after=after, stream=stream, upto=last.scanned_to)


def _sound(connection: sqlite3.Connection, pages: list[_Page], *, after: int, stream: str | None) -> Iterator[_Page]:
    """The pages before the first that is not sound."""
    with suppress(Damaged):
        for page in pages:
            _check(connection, [page], after=after, stream=stream)
            yield page
            after = page[0].scanned_to


def framed_again(texts: Texts, framing: Framing, *, upto: int) -> list[Framed]:
    """The pages of what was read and found sound before, after which there is more."""
    return [page for page, _ in _paged(Found(columns_from(texts), upto, is_full=True), framing)]


def _read(connection: sqlite3.Connection, *, after: int, stream: str | None, end: int, rows_max: int) -> Found:
    if stream is None:
        upto = min(end, after + rows_max)
        # Where the first is known the others are, almost always.
        columns = columns_between(connection, after, upto, with_salts=not is_checked(connection, after + 1))
        if columns is None and upto < end:
            # Positions may have gaps.
            following = connection.execute("SELECT min(position) FROM events WHERE position > ?", (upto,)).fetchone()[0]
            upto = end if following is None else min(end, following - 1)
        return Found(columns, upto, upto < end)
    upto = min(end, after + rows_max)
    if connection.execute(_IS_ALONE, (stream, after + 1, upto)).fetchone():
        columns = columns_between(connection, after, upto, with_salts=not is_checked(connection, after + 1))
        # Others, or another order, are there only where somebody has altered it, which is told below.
        if columns is not None and columns.runs == (stream, stream) and columns.versions == sorted(columns.versions):
            return Found(columns, upto, upto < end)
    count, first, last = connection.execute(_SPAN, (stream, after, end, rows_max)).fetchone()
    if not count:
        return Found(None, end, is_full=False)
    with_salts, columns = not is_checked(connection, first), None
    if last - first + 1 == count:
        columns = columns_between(connection, first - 1, last, with_salts=with_salts)
    # Others stand between them, or somebody has altered their order, which is told there.
    if columns is None or columns.versions != sorted(columns.versions):
        rows = rows_after(connection, after=after, stream=stream, end=end, limit=rows_max, columns="position")
        positions = [position for (position,) in rows.fetchall()]
        # None are left of a run that is trimmed just now.
        columns = columns_at(connection, positions, with_salts=with_salts) if positions else None
    if columns is None or count < rows_max:
        return Found(columns, end, is_full=False)
    return Found(columns, columns.positions[-1], is_full=True)


def _paged(found: Found, framing: Framing) -> Iterator[_Page]:
    """Frames, cut into pages."""
    columns, upto, is_full = found
    if columns is None:
        yield Framed(content=b"", scanned_to=upto, version=0, is_marked=False, is_full=is_full), []
        return
    spliced = OfCommons(lambda common: _spliced(common, framing))
    commons = [*map(spliced.__getitem__, columns.commons)]
    has_marked = any(it.is_marked for it in spliced.values())
    wanted = None if all(it.is_wanted for it in spliced.values()) else [it.is_wanted for it in commons]
    parts = _parts(columns, commons, wanted)
    rows = range(len(commons)) if wanted is None else [*compress(range(len(commons)), wanted)]
    start = 0
    for stop, content in _cut(parts):
        # What is not wanted goes with the page of what is wanted after it, and the last page takes the rest.
        is_last = stop == len(rows)
        end = len(commons) if is_last else rows[stop - 1] + 1
        page = Framed(
            content=content,
            scanned_to=upto if is_last else columns.positions[end - 1],
            version=max(columns.versions[start:end]),
            is_marked=has_marked and any(common.is_marked for common in commons[start:end]),
            is_full=is_full or not is_last,
            rows=end - start,
        )
        yield page, columns.positions[start:end]
        start = end


def _parts(columns: Columns, commons: list[_Spliced], wanted: list[bool] | None) -> list[bytes]:
    """What the frames are joined of, one after the other. No step here is taken event by event."""
    _, _, after_cursors, after_positions, after_ids, sent_sizes, after_sents = zip(*commons, strict=True)
    digits = columns.hashes.hex().encode()
    count = len(commons)
    given: list[Sequence[bytes]] = [
        columns.position_digits,
        struct.unpack("8s56x" * count, digits),
        after_cursors,
        columns.position_digits,
        after_positions,
        columns.version_digits,
        _dashed(columns.ids),
        after_ids,
        cut(columns.sents.hex().encode(), [2 * size for size in sent_sizes], 2 * HASH_BYTES),
        after_sents,
        cut_even(digits, 2 * HASH_BYTES),
        [*map(one_line, columns.datas)] if columns.has_lines else columns.datas,
    ]
    if wanted is not None:
        given = [[*compress(column, wanted)] for column in given]
        count = sum(wanted)
    parts = _FRAME * count
    for place, column in zip(_GIVEN, given, strict=True):
        parts[place :: len(_FRAME)] = column
    return parts


def _dashed(ids: bytes) -> tuple[bytes, ...]:
    """Ids as they are read: all of them have a dash between every two bytes, and lose those that are too many."""
    text = bytearray(ids.hex("-", 2).encode())
    wide = 5 * ID_BYTES // 2
    for too_many in (34, 29, 4):
        del text[too_many::wide]
        wide -= 1
    return struct.unpack(f"{_ID_LENGTH}sx" * (len(ids) // ID_BYTES), text + b"-")


def _cut(parts: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Frames joined to pages of about the same size, so that none is left with a frame or two, and where each ends."""
    count = len(parts) // len(_FRAME)
    if not count:
        yield 0, b""
        return
    others_bytes = sum(map(len, parts[: _GIVEN[-1]]))
    pages = (count * others_bytes + sum(map(len, parts[_GIVEN[-1] :: len(_FRAME)]))) // PAGE_BYTES + 1
    for page in range(pages):
        yield from _joined(parts, count * page // pages, count * (page + 1) // pages)


def _joined(parts: list[bytes], start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    content = b"".join(parts[start * len(_FRAME) : stop * len(_FRAME)])
    if len(content) <= FRAMES_BYTES or stop - start <= 1:
        if start < stop:
            yield stop, content
        return
    middle = (start + stop) // 2
    yield from _joined(parts, start, middle)
    yield from _joined(parts, middle, stop)


def _spliced(common: Common, framing: Framing) -> _Spliced:
    quote = '"' if common.sent_bytes else ""
    after_id = (
        f'","type":{_quoted(common.type)},"schema":{common.schema},"class":"{event_class(common.type)}",'
        f'"at":"{_time(common.at_us)}","recorded_at":"{_time(common.recorded_at_us)}",'
        f'"tenant":{_quoted(common.tenant)},"actor":{_actor(common.actor)},"cause":{_id(common.cause)},'
        f'"command":{_id(common.command)},"sent":{quote or "null"}'
    )
    after_sent = f'{quote},"correlation":{_quoted(common.correlation)},"hash":"'
    beginning = _beginning(common.type, common.tenant, common.run_id, framing)
    return _Spliced(*beginning, after_id.encode(), common.sent_bytes or 0, after_sent.encode())


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

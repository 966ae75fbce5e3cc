"""Frames made of the rows of the log as they are: no event becomes an object, and what repeats is written once a page.

The same bytes as `framed` gives, which stays the plain words for what is done here; a test holds them side by side.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import msgspec

from eventstore.framing import Framed, Framing, lead_of, one_line
from eventstore.reading import Row, check_page, end_of, read_page, rows_after, uuid_text
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import actor_json, time_text
from runfold.events import event_class

FRAMES_BYTES = 96 * 1024  # What a client that takes nothing makes us hold, beside what its connection costs.
PAGE_ROWS = 256  # So many common events fill a page.
COLUMNS = (
    "position, version, at_us, recorded_at_us, id, cause, command, sent, hash, data,"
    " json_array(type, schema, tenant, actor, run_id, correlation)"
)
"""What many events have in common is one text, so it is fetched and looked up as one."""
_SECOND_US = 1_000_000
OF_ANOTHER_KIND = (AttributeError, TypeError, ValueError, msgspec.DecodeError)
_END = b"}\n\n"
_decode = msgspec.json.Decoder(tuple[str, int, str, str, str, str]).decode
_encode = msgspec.json.Encoder().encode
_Key = TypeVar("_Key")
_Text = TypeVar("_Text")


class _Kind(NamedTuple):
    """What is the same in many events: whether they are wanted, and how the parts of their frames go on."""

    is_wanted: bool
    is_marked: bool
    after_cursor: str
    run_id: str
    after_id: str
    after_times: str
    correlation: str


def read_framed(connection: sqlite3.Connection, *, after: int, framing: Framing, stream: str | None = None) -> Framed:
    """The next frames after a position, no more once they fill FRAMES_BYTES. Raises Trimmed, Diverged."""
    end = end_of(connection, after=after, stream=stream)
    rows = rows_after(connection, after=after, stream=stream, end=end, limit=PAGE_ROWS, columns=COLUMNS)
    try:
        page, positions = _spliced(rows, framing, end)
    except OF_ANOTHER_KIND:
        # Only an altered file holds values of other kinds, and who reads it event by event is told.
        read_page(connection, after=after, stream=stream, limit=PAGE_ROWS)
        raise
    finally:
        rows.close()
    last_version = page.version if positions else None
    check_page(connection, positions, last_version, after=after, stream=stream, upto=page.scanned_to)
    return page


def _spliced(rows: Iterable[Row], framing: Framing, end: int) -> tuple[Framed, list[int]]:
    """The frames of the wanted among the rows, until they fill a page, and where all stand; `end`: how far they go."""
    kinds: _Written[str, _Kind] = _Written(lambda common: _kind(common, framing))
    times: _Written[int, str] = _Times()
    ids: _Written[bytes | None, str] = _Written(_id)
    parts: list[bytes] = []
    positions: list[int] = []
    left_bytes, highest, is_marked, is_full = FRAMES_BYTES, 0, False, False
    for position, version, at_us, recorded_at_us, identity, cause, command, sent, digest, data, common in rows:
        is_wanted, is_mark, after_cursor, run_id, after_id, after_times, correlation = kinds[common]
        if is_wanted:
            name, digits = identity.hex(), digest.hex()
            sent = f'"{sent.hex()}"' if sent else "null"
            head = (
                f'id: {position}-{digits[:8]}{after_cursor}{position},"run_id":{run_id},"version":{version}'
                f',"id":"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"{after_id}{times[at_us]}'
                f'","recorded_at":"{times[recorded_at_us]}"{after_times}{ids[cause]},"command":{ids[command]},"sent":'
                f'{sent}{correlation}"{digits}","data":'
            ).encode()
            if data is None:
                data = b"null"
            elif b"\n" in data or b"\r" in data:
                data = one_line(data)
            left_bytes -= len(head) + len(data) + len(_END)
            if left_bytes < 0 and parts:
                is_full = True
                break
            parts += (head, data, _END)
        positions.append(position)
        if is_mark:
            is_marked = True
        if version > highest:
            highest = version
    is_full = is_full or len(positions) == PAGE_ROWS
    page = Framed(
        content=b"".join(parts),
        scanned_to=positions[-1] if is_full else end,
        version=highest,
        is_marked=is_marked,
        is_full=is_full,
    )
    return page, positions


class _Written(dict[_Key, _Text]):
    """What was written once in a page is not written again."""

    def __init__(self, write: Callable[[_Key], _Text]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, key: _Key) -> _Text:
        text = self[key] = self._write(key)
        return text


class _Times(_Written[int, str]):
    """Times as the envelope shows them; those of one second share the writing of its date."""

    def __init__(self) -> None:
        super().__init__(self._time)
        self._seconds: _Written[int, str] = _Written(lambda second: time_text(second * _SECOND_US)[:-7])

    def _time(self, at_us: int) -> str:
        second, micros = divmod(at_us, _SECOND_US)
        return f"{self._seconds[second]}{micros:06d}Z"


def _kind(common: str, framing: Framing) -> _Kind:
    name, schema, tenant, actor, run_id, correlation = _decode(common)
    return _Kind(
        is_wanted=framing.takes(run_id, tenant, name),
        is_marked=name in framing.marks,
        after_cursor=f'\n{lead_of(name, named=framing.named)}data: {{"position":',
        run_id=_quoted(run_id),
        after_id=f',"type":{_quoted(name)},"schema":{schema},"class":"{event_class(name)}","at":"',
        after_times=f',"tenant":{_quoted(tenant)},"actor":{actor_json(actor).decode()},"cause":',
        correlation=f',"correlation":{_quoted(correlation)},"hash":',
    )


def _quoted(text: str) -> str:
    return _encode(text).decode()


def _id(identity: bytes | None) -> str:
    return "null" if identity is None else f'"{uuid_text(identity)}"'

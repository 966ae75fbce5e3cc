"""Frames made of the rows of the log as they are: no event becomes an object, and what repeats is written once a page.

The same bytes as `framed` gives, which stays the plain words for what is done here; a test holds them side by side.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from eventstore.framing import Framed, Framing, lead_of, one_line
from eventstore.reading import Row, end_of, rows_after, uuid_text
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import actor_json, time_text
from runfold.events import event_class

FRAMES_BYTES = (
    64 * 1024
)  # With aiohttp's own 64 KiB and the page read ahead below the 256 KiB that one client may cost.
PAGE_ROWS = 96  # So many common events fill a page.
_SECOND_US = 1_000_000
_encode = msgspec.json.Encoder().encode
_Key = TypeVar("_Key")


class _Texts(dict[_Key, str]):
    """What was written once in a page is not written again."""

    def __init__(self, write: Callable[[_Key], str]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, key: _Key) -> str:
        text = self[key] = self._write(key)
        return text


def read_framed(connection: sqlite3.Connection, *, after: int, framing: Framing, stream: str | None = None) -> Framed:
    """The next frames after a position, no more once they fill FRAMES_BYTES. Raises Trimmed, Diverged."""
    end = end_of(connection, after=after, stream=stream)
    rows = rows_after(connection, after=after, stream=stream, end=end, limit=PAGE_ROWS).fetchall()
    content, seen = _spliced(rows, framing, stream)
    is_cut = seen < len(rows) or len(rows) == PAGE_ROWS
    rows = rows[:seen]
    return Framed(
        content=content,
        scanned_to=rows[-1][0] if is_cut else end,
        version=max((row[2] for row in rows), default=0),
        is_marked=bool(framing.marks) and any(row[4] in framing.marks for row in rows),
    )


def _spliced(rows: Sequence[Row], framing: Framing, stream: str | None) -> tuple[bytes, int]:
    """The frames of the wanted among the rows, and how many rows were seen until they fill a page."""
    quoted: _Texts[str] = _Texts(_quoted)
    leads: _Texts[str] = _Texts(lambda name: lead_of(name, named=framing.named))
    kinds: _Texts[str] = _Texts(lambda name: f'"class":"{event_class(name)}","at":"')
    actors: _Texts[str] = _Texts(lambda actor: actor_json(actor).decode())
    # `2026-01-31T12:00:00.`: many events share a second.
    moments: _Texts[int] = _Texts(lambda second: time_text(second * _SECOND_US)[:-7])
    parts: list[bytes] = []
    left_bytes = FRAMES_BYTES
    is_narrowed = framing.is_narrowed or stream is None
    for seen, row in enumerate(rows):
        position, run_id, version, identity, kind, schema, at_us, recorded_at_us, tenant, actor = row[:10]
        cause, command, sent, correlation, digest, data = row[10:16]
        if is_narrowed and not framing.takes(run_id, tenant, kind):
            continue
        digits, digest = identity.hex(), digest.hex()
        at, at_micros = divmod(at_us, _SECOND_US)
        recorded, recorded_micros = divmod(recorded_at_us, _SECOND_US)
        head = (
            f"id: {position}-{digest[:8]}\n{leads[kind]}data: "
            f'{{"position":{position},"run_id":{quoted[run_id]},"version":{version},"id":"{digits[:8]}-{digits[8:12]}'
            f'-{digits[12:16]}-{digits[16:20]}-{digits[20:]}","type":{quoted[kind]},"schema":{schema},{kinds[kind]}'
            f'{moments[at]}{at_micros:06d}Z","recorded_at":"{moments[recorded]}{recorded_micros:06d}Z",'
            f'"tenant":{quoted[tenant]},"actor":{actors[actor]},"cause":{_id(cause)},"command":{_id(command)},"sent":'
            f'{f"{chr(34)}{sent.hex()}{chr(34)}" if sent else "null"},"correlation":{quoted[correlation]},'
            f'"hash":"{digest}","data":'
        ).encode()
        if data is None:
            data = b"null"
        elif b"\n" in data or b"\r" in data:
            data = one_line(data)
        left_bytes -= len(head) + len(data) + len(_END)
        if parts and left_bytes < 0:
            return b"".join(parts), seen
        parts += (head, data, _END)
    return b"".join(parts), len(rows)


_END = b"}\n\n"


def _quoted(text: str) -> str:
    return _encode(text).decode()


def _id(identity: bytes | None) -> str:
    return "null" if identity is None else f'"{uuid_text(identity)}"'

"""What the log holds of many events, by columns: SQLite gives each as one text, and holds up nobody meanwhile.

What the events of one command have in common is one JSON text an event, so that it is decoded only where it changes.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from eventstore.sqlite3_module import sqlite3

ID_BYTES = 16  # Of a salt, too.
HASH_BYTES = 32
OF_ANOTHER_KIND = (AttributeError, TypeError, ValueError, OverflowError, struct.error, msgspec.DecodeError)
"""What columns of an altered file raise."""
_POINTER_BYTES = 8
_COLUMNS = (
    "SELECT CAST(group_concat(position) AS BLOB), CAST(group_concat(version) AS BLOB),"
    " CAST(group_concat(id, '') AS BLOB), CAST(group_concat(hash, '') AS BLOB), CAST(group_concat(sent, '') AS BLOB),"
    # Few events have a cause, and each call of a function is felt.
    " CAST(group_concat(json_array(type, schema, tenant, actor, run_id, correlation, at_us, recorded_at_us,"
    " CASE WHEN cause IS NULL THEN '' ELSE hex(cause) END, hex(command), length(sent)), '\n') AS BLOB),"
    " CAST(group_concat(coalesce(data, 'null'), '') AS BLOB), group_concat(coalesce(length(data), 4)),"
    " min(run_id), max(run_id),"
)
_SALTS = " coalesce(CAST(group_concat(salt, '') AS BLOB), x''), count(digest)"
_NO_SALTS = " NULL, 0"
_BETWEEN = " FROM events WHERE position > ? AND position <= ?"
_AT = " FROM events WHERE position IN (SELECT value FROM json_each(?))"
_ANCHORED = (
    "SELECT CAST(group_concat(position) AS BLOB), CAST(group_concat(recorded_at_us) AS BLOB),"
    " CAST(group_concat(hash, '') AS BLOB) FROM events WHERE position > ? AND position <= ?"
)
_numbers = msgspec.json.Decoder(list[int]).decode

Made = TypeVar("Made")


class OutOfOrder(ValueError):
    """Only in an altered file."""


class Common(msgspec.Struct, frozen=True, array_like=True):
    """What the events of one command mostly have in common; ids are 32 hexadecimal digits, or empty."""

    type: str
    schema: int
    tenant: str
    actor: str
    run_id: str
    correlation: str
    at_us: int
    recorded_at_us: int
    cause: str
    command: str
    sent_bytes: int | None


class Texts(NamedTuple):
    """Columns as SQLite gives them, and a third of what they become; `commons` of the same words are the same text."""

    positions: bytes
    versions: bytes
    ids: bytes
    hashes: bytes
    sents: bytes
    commons: list[bytes]
    data: bytes
    sizes: str

    @property
    def size_bytes(self) -> int:
        commons = sum(map(len, set(self.commons))) + _POINTER_BYTES * len(self.commons)
        columns = (self.positions, self.versions, self.ids, self.hashes, self.sents, self.data, self.sizes)
        return sum(map(len, columns)) + commons


class Columns(NamedTuple):
    """Of events in the order of the log; numbers also as digits. `commons`: each the text of a `Common`.

    `sents` says nothing of an event that has none. What only a check needs is there where it was asked for: `salts`, of
    which redacted events have none, and `redacted`, how many those are.
    """

    positions: list[int]
    position_digits: list[bytes]
    versions: list[int]
    version_digits: list[bytes]
    ids: bytes
    hashes: bytes
    salts: bytes | None
    sents: bytes
    commons: list[bytes]
    datas: Sequence[bytes]
    has_lines: bool
    """Whether a line ends within the data."""
    redacted: int
    runs: tuple[str, str]
    """The least and the greatest of the names of their runs."""
    texts: Texts


def columns_between(
    connection: sqlite3.Connection, after: int, upto: int, *, with_salts: bool = True
) -> Columns | None:
    """Of all runs; None where there is no event. Raises OF_ANOTHER_KIND, as all here."""
    return _columns(connection, _BETWEEN, (after, upto), with_salts=with_salts)


def columns_at(connection: sqlite3.Connection, positions: Sequence[int], *, with_salts: bool = True) -> Columns | None:
    """At ascending positions."""
    if [*positions] != sorted(positions):
        raise OutOfOrder("events are not in the order of their positions")
    if positions[-1] - positions[0] + 1 == len(positions):
        return columns_between(connection, positions[0] - 1, positions[-1], with_salts=with_salts)
    return _columns(connection, _AT, (msgspec.json.encode(positions).decode(),), with_salts=with_salts)


def anchored_between(connection: sqlite3.Connection, after: int, upto: int) -> tuple[list[int], list[int], bytes]:
    """What an anchor holds of the events up to its position: their positions, times, and hashes."""
    positions, times, hashes = connection.execute(_ANCHORED, (after, upto)).fetchone()
    if positions is None:
        return [], [], b""
    return _ascending(positions), _numbers(b"[%b]" % times), hashes


def _columns(
    connection: sqlite3.Connection, which: str, values: tuple[object, ...], *, with_salts: bool
) -> Columns | None:
    try:
        found = connection.execute(_COLUMNS + (_SALTS if with_salts else _NO_SALTS) + which, values).fetchone()
    except sqlite3.OperationalError as error:
        if "JSON" not in str(error):
            raise
        raise TypeError(f"a text of an event is none: {error}") from error
    positions, versions, ids, hashes, sents, commons, data, sizes, least, greatest, salts, redacted = found
    if positions is None:
        return None
    known: dict[bytes, bytes] = {}
    split = commons.split(b"\n")
    texts = Texts(positions, versions, ids, hashes, sents or b"", [*map(known.setdefault, split, split)], data, sizes)
    return columns_from(texts, salts, redacted, (least, greatest))


def columns_from(
    texts: Texts, salts: bytes | None = None, redacted: int = 0, runs: tuple[str, str] = ("", "")
) -> Columns:
    return Columns(
        positions=_ascending(texts.positions),
        position_digits=texts.positions.split(b","),
        versions=_numbers(b"[%b]" % texts.versions),
        version_digits=texts.versions.split(b","),
        ids=texts.ids,
        hashes=texts.hashes,
        salts=salts,
        sents=texts.sents,
        commons=texts.commons,
        # To look for what is between them would cost as much as all else.
        datas=struct.Struct(texts.sizes.replace(",", "s") + "s").unpack(texts.data),
        has_lines=b"\n" in texts.data or b"\r" in texts.data,
        redacted=redacted,
        runs=runs,
        texts=texts,
    )


def _ascending(digits: bytes) -> list[int]:
    """SQLite goes through a table or an index in its order, though it does not promise to."""
    numbers = _numbers(b"[%b]" % digits)
    if numbers != sorted(numbers):
        raise OutOfOrder("events are not in the order of their positions")
    return numbers


def cut_even(content: bytes, size: int) -> tuple[bytes, ...]:
    """Pieces of one size. Raises struct.error where one is left that is smaller."""
    return struct.unpack(f"{size}s" * (len(content) // size), content)


def cut(content: bytes, sizes: Sequence[int], most: int) -> tuple[bytes, ...]:
    """Pieces of some sizes, which almost always are the most."""
    if len(content) == most * len(sizes):
        return cut_even(content, most)
    return struct.Struct("".join(f"{size}s" for size in sizes)).unpack(content)


class OfCommons(dict[bytes, Made], Generic[Made]):
    """What is made of common texts: of each once."""

    def __init__(self, make: Callable[[Common], Made]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: bytes) -> Made:
        made = self[text] = self._make(_common(text))
        return made


_common = msgspec.json.Decoder(Common).decode

"""A row of the log, and the event that it stands for."""

import uuid
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias, cast, overload

from runfold.envelope import Recorded
from runfold.errors import BadRequest

COLUMNS = (
    "position, run_id, version, id, type, schema, at_us, recorded_at_us, tenant, actor,"
    " cause, command, sent, correlation, hash, data, salt"
)
Row: TypeAlias = tuple[Any, ...]
"""The values of COLUMNS."""
ROWS_AT_ONCE_MAX = 256  # 17 values each: far below the 32,766 of one statement.
ROWS_AS_THEY_ARE_MAX = 64  # Up to here every number of rows has a statement of its own.


def recorded_of(row: Row) -> Recorded:
    """The event of a row of COLUMNS."""
    return Recorded(
        position=row[0],
        run_id=row[1],
        version=row[2],
        id=uuid_text(row[3]),
        type=row[4],
        schema=row[5],
        at_us=row[6],
        recorded_at_us=row[7],
        tenant=row[8],
        actor=row[9],
        cause=None if row[10] is None else uuid_text(row[10]),
        command=None if row[11] is None else uuid_text(row[11]),
        sent=row[12],
        correlation=row[13],
        hash=row[14],
        data=row[15],
        salt=row[16],
    )


def in_parts(rows: Sequence[Row]) -> Iterator[tuple[int, list[Any]]]:
    """The rows in as few parts as there are statements for, with their values in one list: a thread that waits for a
    statement gives way to the others, and of many statements only some are kept compiled."""
    start = 0
    while start < len(rows):
        size = len(rows) - start
        if size > ROWS_AS_THEY_ARE_MAX:
            size = min(ROWS_AT_ONCE_MAX, 1 << size.bit_length() - 1)
        yield size, list(chain.from_iterable(rows[start : start + size]))
        start += size


class RecordedRows(Sequence[Recorded]):
    """The events of rows of COLUMNS, each made when it is looked at: most who append only ask where it went."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    @overload
    def __getitem__(self, index: int) -> Recorded: ...

    @overload
    def __getitem__(self, index: slice) -> "RecordedRows": ...

    def __getitem__(self, index: int | slice) -> "Recorded | RecordedRows":
        return RecordedRows(self._rows[index]) if isinstance(index, slice) else recorded_of(self._rows[index])

    @property
    def ends(self) -> tuple[int, int, int]:
        """The first and the last position, and the last version; there is at least one row."""
        first, last = self._rows[0], self._rows[-1]
        return first[0], last[0], last[2]

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(cast("Sequence[object]", other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


def uuid_text(content: bytes) -> str:
    text = content.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID's text. Raises BadRequest."""
    try:
        # The usual spelling is read three times as fast as by UUID, which also knows the others.
        if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":
            content = bytes.fromhex(text.replace("-", ""))
            if len(content) == 16:
                return content
        return uuid.UUID(text).bytes
    except ValueError:
        raise BadRequest(f"`{text}` is not a UUID", hint="ids of events and commands are UUIDs") from None

"""A row of the log's table as it stands there: what proofs, archives and copies read, and write back."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from eventstore.rows import COLUMNS

WHOLE_COLUMNS = f"{COLUMNS}, digest"


class WholeRow(NamedTuple):
    """The values of WHOLE_COLUMNS; a redacted event has its `digest` in place of a salt, and what is left of its data.

    In a file that was altered they may be of any kind.
    """

    position: int
    run_id: str
    version: int
    id: bytes
    type: str
    schema: int
    at_us: int
    recorded_at_us: int
    tenant: str
    actor: str
    cause: bytes | None
    command: bytes | None
    sent: bytes | None
    correlation: str
    hash: bytes
    data: bytes | None
    salt: bytes | None
    digest: bytes | None


INSERT_WHOLE = f"INSERT INTO events ({WHOLE_COLUMNS}) VALUES ({', '.join('?' * len(WholeRow._fields))})"  # noqa: S608


def whole_rows(found: Iterable[tuple[Any, ...]]) -> Iterator[WholeRow]:
    return map(WholeRow._make, found)

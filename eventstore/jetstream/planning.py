"""What an append writes to the stream, ready to be sent."""

from collections.abc import Sequence

import msgspec

from eventstore.jetstream.messages import FORMAT, encode
from eventstore.preparing import Request
from eventstore.rows import Row


class Planned(msgspec.Struct, frozen=True):
    """What an append writes to a run that still ends at `expected`: messages, and rows but for their positions.

    `is_purged`: the stream has nothing of the run any more, though it was never trimmed.
    """

    stream: str
    expected: int
    messages: tuple[bytes, ...]
    rows: tuple[Row, ...] = ()
    is_purged: bool = False


def planned(request: Request, rows: Sequence[Row]) -> Planned:
    """The messages of an append's rows, which begin with a position that only the stream can give."""
    rests = range(len(rows) - 1, -1, -1)
    messages = tuple([encode((FORMAT, rest, *row[1:])) for rest, row in zip(rests, rows, strict=True)])
    return Planned(request.stream, request.expected, messages, tuple(rows))

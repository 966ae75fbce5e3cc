"""One caller's append, checked as far as it can be before the log is asked."""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from eventstore.contract import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX
from eventstore.rows import uuid_bytes
from runfold.envelope import NewEvent
from runfold.errors import BadRequest, TooLarge

NAME_BYTES_MAX = 512
AT_US_MAX = 253_402_300_799_999_999  # The end of year 9999: what RFC 3339 can still write.
TEXTS_KNOWN_MAX = 1024  # Of at most 512 bytes each; most events say what others have said.
SCHEMA_MAX = 2**31 - 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """`parts` are the events, each with the bytes of its id, its cause and its command."""

    stream: str
    parts: list[tuple[NewEvent, bytes, bytes | None, bytes | None]]
    ids: list[bytes]
    expected: int
    size_bytes: int


def prepare(stream: str, events: Sequence[NewEvent], expected: int) -> Request:
    """A request that the log can take or refuse without harm to its neighbours. Raises BadRequest, TooLarge."""
    if not events:
        raise BadRequest(f"nothing to append to `{stream}`")
    size_bytes = 0
    for event in events:
        size_bytes += len(event.data)
    if len(events) > APPEND_EVENTS_MAX or size_bytes > EVENT_BYTES_MAX:
        check_sizes(stream, [len(event.data) for event in events])
    _check_stream(stream)
    ids: list[bytes] = []
    parts: list[tuple[NewEvent, bytes, bytes | None, bytes | None]] = []
    for event in events:
        identity, cause, command = uuid_bytes(event.id), event.cause, event.command
        ids.append(identity)
        parts.append(
            (
                event,
                identity,
                None if cause is None else _origin(cause),
                None if command is None else _origin(command),
            )
        )
        _check_texts(event.type, event.tenant, event.actor, event.correlation)
        if not 0 <= event.at_us <= AT_US_MAX:
            raise BadRequest(f"the time of event `{event.id}` is outside the years 1970 to 9999")
        if not 0 <= event.schema <= SCHEMA_MAX:
            raise BadRequest(f"the schema {event.schema} of event `{event.id}` is not a small number")
    if len(ids) > 1 and len(set(ids)) != len(ids):
        raise BadRequest(f"an event id is twice in one append to `{stream}`", hint="give each event its own id")
    return Request(
        stream=stream,
        parts=parts,
        ids=ids,
        expected=expected,
        size_bytes=size_bytes,
    )


def check_sizes(stream: str, sizes: Sequence[int]) -> None:
    """Raises TooLarge where the data of one append's events is more than the log takes."""
    if len(sizes) > APPEND_EVENTS_MAX:
        raise TooLarge(
            f"{len(sizes)} events in one append to `{stream}`, at most {APPEND_EVENTS_MAX}", hint="send them in parts"
        )
    if max(sizes, default=0) > EVENT_BYTES_MAX:
        raise TooLarge(
            f"an event for `{stream}` has {max(sizes)} bytes of data, at most {EVENT_BYTES_MAX}",
            hint="store the long part as an artifact and name it in the event",
        )
    if sum(sizes) > APPEND_BYTES_MAX:
        raise TooLarge(
            f"{sum(sizes)} bytes in one append to `{stream}`, at most {APPEND_BYTES_MAX}", hint="send them in parts"
        )


@lru_cache(maxsize=TEXTS_KNOWN_MAX)
def _check_stream(stream: str) -> None:
    _check_text("stream", stream)


@lru_cache(maxsize=TEXTS_KNOWN_MAX)
def _check_texts(type_name: str, tenant: str, actor: str, correlation: str) -> None:
    for name, text in (("type", type_name), ("tenant", tenant), ("actor", actor), ("correlation", correlation)):
        _check_text(name, text)


_origin = lru_cache(maxsize=TEXTS_KNOWN_MAX)(uuid_bytes)  # The events of one append mostly have the same.


def _check_text(name: str, text: str) -> None:
    if text and text.isascii() and len(text) <= NAME_BYTES_MAX:
        return
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"the {name} of an event is not valid Unicode text") from None
    if size > NAME_BYTES_MAX:
        raise TooLarge(f"the {name} of an event has {size} bytes, at most {NAME_BYTES_MAX}")
    if not text and name in ("stream", "type"):
        raise BadRequest(f"the {name} of an event is empty")

"""The envelope round an event: what a caller hands to the log, and what the log gives back."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from runfold.events import Event, Unknown, decode_stored, event_class

SYSTEM_STREAM = "$runfold"
"""The stream of what belongs to no run."""
A_MOMENT = "a date such as 2026-01-31, or a time with its zone such as 2026-01-31T12:00:00Z"
_EPOCH = datetime(1970, 1, 1)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UNESCAPED_ZONE = re.compile(r"(T\S+) (\d\d:?\d\d)", re.ASCII)


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way into the log: `id`, `cause` and `command` are canonical UUID text, times UTC microseconds."""

    id: str
    type: str
    data: bytes
    at_us: int
    tenant: str
    actor: str
    schema: int = 1
    cause: str | None = None
    command: str | None = None
    sent: bytes | None = None
    """The digest of what the caller sent; the log keeps it salted."""
    correlation: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the log holds it. `data` and `salt` are None where it was redacted."""

    position: int
    run_id: str
    version: int
    id: str
    type: str
    schema: int
    at_us: int
    recorded_at_us: int
    tenant: str
    actor: str
    cause: str | None
    command: str | None
    sent: bytes | None
    correlation: str
    hash: bytes
    data: bytes | None
    salt: bytes | None = None

    @property
    def cursor(self) -> str:
        """`<position>-<first 8 hex of the hash>`: the SSE id, and what a reader hands back to go on."""
        return f"{self.position}-{self.hash[:4].hex()}"

    def event(self) -> Event | Unknown | None:
        """The typed event; None where it was redacted. Raises InvalidEvent."""
        return decode_stored(self.type, self.data)


class Fact(msgspec.Struct, frozen=True, gc=False):
    """What a fold hears of a recorded event: made of a row of the log as it stands, a million times in a rebuild.

    Its fields are in the order of the row; `cause` and `command` are the 16 bytes that the log keeps.
    """

    position: int
    run_id: str
    version: int
    type: str
    at_us: int
    recorded_at_us: int
    tenant: str
    actor: str
    cause: bytes | None
    command: bytes | None
    data: bytes | None

    def event(self) -> Event | Unknown | None:
        """The typed event; None where it was redacted. Raises InvalidEvent."""
        return decode_stored(self.type, self.data)


class _Actor(msgspec.Struct, frozen=True):
    kind: str
    name: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    position: int
    run_id: str
    version: int
    id: str
    type: str
    schema: int
    event_class: str = msgspec.field(name="class")
    at: str
    recorded_at: str
    tenant: str
    actor: _Actor
    cause: str | None
    command: str | None
    sent: str | None
    correlation: str
    hash: str
    data: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_NULL = msgspec.Raw(b"null")


def envelope_json(recorded: Recorded) -> bytes:
    """The public JSON of a recorded event, one line; the stored data is spliced in, not decoded."""
    kind, _, name = recorded.actor.partition(":")
    return _encode(
        _Envelope(
            position=recorded.position,
            run_id=recorded.run_id,
            version=recorded.version,
            id=recorded.id,
            type=recorded.type,
            schema=recorded.schema,
            event_class=event_class(recorded.type),
            at=time_text(recorded.at_us),
            recorded_at=time_text(recorded.recorded_at_us),
            tenant=recorded.tenant,
            actor=_Actor(kind, name),
            cause=recorded.cause,
            command=recorded.command,
            sent=recorded.sent.hex() if recorded.sent else None,
            correlation=recorded.correlation,
            hash=recorded.hash.hex(),
            data=_NULL if recorded.data is None else msgspec.Raw(recorded.data),
        )
    )


def actor_json(actor: str) -> bytes:
    """`kind:name` as the envelope shows it."""
    kind, _, name = actor.partition(":")
    return _encode(_Actor(kind, name))


def time_text(us: int) -> str:
    """Microseconds since 1970 as RFC 3339 UTC with six decimals and `Z`."""
    # Not strftime, which takes twice as long: two are made for every event that is sent.
    return f"{(_EPOCH + timedelta(microseconds=us)).isoformat(timespec='microseconds')}Z"


def time_us(text: str) -> int:
    """RFC 3339 text with an offset as microseconds since 1970. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"`{text}` has no time zone")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment_us(text: str) -> int:
    """A time as people and addresses write it: RFC 3339 with its zone, or a date alone, which is its first moment
    in UTC. Microseconds since 1970. Raises ValueError, OverflowError.
    """
    if _DATE.fullmatch(text):
        return time_us(f"{text}T00:00:00Z")
    # In an address an unescaped `+` arrives as a space.
    return time_us(_UNESCAPED_ZONE.sub(r"\1+\2", text))


def run_id_of(identity: uuid.UUID) -> str:
    """`r_` and the UUID in 26 characters of lower-case base 32 (RFC 4648, without padding)."""
    import base64

    return "r_" + base64.b32encode(identity.bytes).decode().rstrip("=").lower()


def derived_id(namespace: str, name: str) -> str:
    """The UUID of a name under another UUID: the same inputs give the same id, so a retry is known.

    Under a v7 UUID it is a v8 one (RFC 9562) with the time of that UUID, so that what one run stores lies together;
    under any other it is the v5 UUID.
    """
    # Not at the top: who only reads runs does not wait for OpenSSL to load.
    import hashlib

    # As uuid.uuid5, which takes three times as long; one is made for every event.
    space, begin = _namespace(namespace)
    digits = hashlib.sha1(space + name.encode(), usedforsecurity=False).hexdigest()
    begin = begin or f"{digits[:8]}-{digits[8:12]}-5"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{begin}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


@lru_cache(maxsize=128)
def _namespace(text: str) -> tuple[bytes, str]:
    """The bytes of a UUID, and how the ids under it begin, where it has a time."""
    # As uuid.UUID, which takes four times as long for the usual spelling.
    digits = text.replace("-", "")
    content = bytes.fromhex(digits) if len(digits) == 32 and digits.isalnum() else uuid.UUID(text).bytes
    digits = content.hex()
    return content, f"{digits[:8]}-{digits[8:12]}-8" if content[6] >> 4 == 7 else ""

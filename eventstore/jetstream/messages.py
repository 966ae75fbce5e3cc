"""An event as a message of the stream, and back; the format is ours, MessagePack of a fixed row (msgpack.org)."""

import base64

import msgspec

from runfold.errors import LogFailed

FORMAT = 1
GAP = "-.gap"
"""The end of a subject that no run has: what keeps a place while a log is copied, and is no event."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """An event without its position, which is the message's own sequence; `rest`: events of its append still to come.

    Ids are 16 bytes, times UTC microseconds, `hash` the run's chain up to here. `digest` is there where the event was
    redacted before its log was copied: then `salt` is gone, and `data` is what was left.
    """

    format: int
    rest: int
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
    digest: bytes | None = None


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def decode(content: bytes, position: int) -> Message:
    """Raises LogFailed for what this version did not write."""
    try:
        message = _decode(content)
    except msgspec.DecodeError as error:
        raise LogFailed(
            f"the message at position {position} of the replicated log is no event: {error}",
            hint="another program wrote to the log's subjects, or a newer runfold: upgrade, or find who wrote it",
        ) from error
    if message.format != FORMAT:
        raise LogFailed(
            f"the message at position {position} is of format {message.format}, known {FORMAT}", hint="upgrade runfold"
        )
    return message


def subject_of(name: str, run_id: str) -> str:
    """The subject of a run: any text is a word of letters, digits, `-` and `_`."""
    if run_id.isascii() and run_id.replace("_", "").replace("-", "").isalnum() and not run_id.startswith("-"):
        return f"{name}.{run_id}"
    return f"{name}.-" + base64.urlsafe_b64encode(run_id.encode()).decode().rstrip("=")

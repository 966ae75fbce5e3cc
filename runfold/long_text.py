"""Long texts of an event: which leave its data for a blob, what stands in their place, and how folds read that.

Everything that stays is kept byte for byte, so the same event always becomes the same data.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

HEAD_BYTES = 2048  # Enough to show what the text is without fetching the blob.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_decode_text = msgspec.json.Decoder(str).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class LongText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the place of a text that is stored apart: its sha256, its size, and how it begins."""

    blob: str
    bytes: int
    head: str


def shorten(content: bytes, bytes_max: int) -> tuple[bytes, tuple[bytes, ...]]:
    """The data with its longest texts replaced until it fits, and the texts in UTF-8, in the order they stood.

    Where even that would not do, the data comes back as it was. The content must be valid JSON.
    """
    excess = len(content) - bytes_max
    savings: list[int] = []
    _replace(content, lambda raw: savings.append(len(raw) - len(_encode(_long_text(raw)))))
    least = 0
    for saving in sorted((saving for saving in savings if saving > 0), reverse=True):
        if excess <= 0:
            break
        least, excess = saving, excess - saving
    if excess > 0 or not least:
        return content, ()
    texts: list[bytes] = []

    def leave(raw: bytes) -> bytes | None:
        replacement = _encode(_long_text(raw))
        if len(raw) - len(replacement) < least:
            return None
        texts.append(_decode_text(raw).encode())
        return replacement

    return _replace(content, leave), tuple(texts)


def with_heads(content: bytes) -> bytes:
    """The data with the beginning of each long text in its place: what a fold that expects text can read."""

    def restored(value: Any) -> Any:
        match value:
            case {"blob": str(blob), "bytes": int(), "head": str(head)} if len(value) == 3 and _SHA256.fullmatch(blob):
                return head
            case dict():
                return {name: restored(inner) for name, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
            case list():
                return [restored(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
            case _:
                return value

    return _encode(restored(msgspec.json.decode(content)))


def _long_text(raw: bytes) -> LongText:
    import hashlib

    text = _decode_text(raw).encode()
    # A character cut in two at the end of the head is left out of it.
    head = text[:HEAD_BYTES].decode(errors="ignore")
    return LongText(blob=hashlib.sha256(text).hexdigest(), bytes=len(text), head=head)


def _replace(content: bytes, replacement: Callable[[bytes], bytes | None]) -> bytes:
    """The JSON with what `replacement` gives for each text longer than a head; None leaves the text as it is."""
    if len(content) <= HEAD_BYTES:
        return content
    first = content[:1]
    if first == b"{":
        fields = _decode_object(content)
        return _encode({name: msgspec.Raw(_replace(bytes(raw), replacement)) for name, raw in fields.items()})
    if first == b"[":
        return _encode([msgspec.Raw(_replace(bytes(raw), replacement)) for raw in _decode_list(content)])
    return (replacement(content) or content) if first == b'"' else content

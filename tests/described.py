"""The hash of `docs/log-format.md`, without the code that computes it."""

import hashlib


def described(*parts: str | int | bytes | None) -> bytes:
    """The hash of these parts, word for word as on the page."""
    content = b""
    for part in parts:
        if part is None:
            content += b"\xff\xff\xff\xff"
            continue
        number_or_text = part.to_bytes(8, "big") if isinstance(part, int) else part
        written = number_or_text.encode() if isinstance(number_or_text, str) else number_or_text
        content += len(written).to_bytes(4, "big") + written
    return hashlib.sha256(content).digest()

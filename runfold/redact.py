"""Secret values never reach what is stored: exact values of secret-looking variables become `[redacted]`."""

import re
from collections.abc import Iterable, Mapping

REDACTED = "[redacted]"
SECRET_CHARACTERS_MIN = 8  # Shorter values ("1", "true") would blank ordinary words.
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values to hide, longest first, so that a secret that contains another goes as a whole."""
    values = {
        value
        for name, value in environment.items()
        if len(value) >= SECRET_CHARACTERS_MIN and _SECRET_NAME.search(name)
    }
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def redact(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


class StreamRedactor:
    """Redacts bytes that come in pieces; a piece that may end inside a secret is held back until that is known."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(
            sorted({secret.encode("utf-8", "surrogateescape") for secret in secrets if secret}, key=len, reverse=True)
        )
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets))) if self._secrets else None
        self._longest = max(map(len, self._secrets), default=0)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        if self._pattern is None:
            return chunk
        content = self._held + chunk
        hold = self._first_open(content, max(0, len(content) - self._longest + 1))
        for match in self._pattern.finditer(content):
            if match.start() >= hold:
                break
            if hold < match.end():
                hold = self._first_open(content, match.end())
        self._held = content[hold:]
        return self._pattern.sub(REDACTED.encode(), content[:hold])

    def finish(self) -> bytes:
        content, self._held = self._held, b""
        return self._pattern.sub(REDACTED.encode(), content) if self._pattern else content

    def _first_open(self, content: bytes, start: int) -> int:
        """Where the earliest unfinished secret at the end of the content begins, or the content's length."""
        first = len(content)
        for secret in self._secrets:
            at = content.find(secret[:1], max(start, len(content) - len(secret) + 1), first)
            while at >= 0:
                if secret.startswith(content[at:]):
                    first = at
                    break
                at = content.find(secret[:1], at + 1, first)
        return first

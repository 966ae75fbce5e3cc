"""Watched logs: what was added to them during a turn, as bytes and the last of it, also in the turn's last moment."""

import os
from collections.abc import Sequence
from pathlib import Path

from runfold.events import LogUpdated
from runfold.redact import redact

TAIL_BYTES = 2048


class WatchedLogs:
    """Looked at from time to time, and once more when the turn has ended; a file that shrank has begun anew."""

    def __init__(self, folder: Path, names: Sequence[str], secrets: Sequence[str]) -> None:
        self._folder, self._secrets = folder, secrets
        self._sizes = {name: _size(folder / name) for name in names}

    def look(self) -> list[LogUpdated]:
        found: list[LogUpdated] = []
        for name, before in self._sizes.items():
            size = _size(self._folder / name)
            if size != before:
                self._sizes[name] = size
                added = size - before if size > before else size
                if added:
                    found.append(LogUpdated(path=name, bytes_added=added, tail=self._tail(name, added)))
        return found

    def _tail(self, name: str, added: int) -> str:
        longest = max((len(secret.encode()) for secret in self._secrets), default=0)
        shown = min(added, TAIL_BYTES)
        try:
            with (self._folder / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - shown - longest))
                content = file.read(shown + longest)
        except OSError:
            return ""
        start = self._after_secret(content, max(0, len(content) - shown))
        # The rest of a character whose beginning is cut off reads as garbage.
        while start < len(content) and content[start] & 0xC0 == 0x80:
            start += 1
        return redact(content[start:].decode("utf-8", "replace"), self._secrets)

    def _after_secret(self, content: bytes, start: int) -> int:
        """Where to begin, so that no secret is cut in two and its end shown."""
        for secret in map(str.encode, self._secrets):
            at = content.find(secret, max(0, start - len(secret) + 1), start + len(secret))
            if 0 <= at < start:
                start = at + len(secret)
        return start


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

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
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(-min(added, TAIL_BYTES), os.SEEK_END)
                content = file.read(TAIL_BYTES)
        except OSError:
            return ""
        return redact(content.decode("utf-8", "replace"), self._secrets)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

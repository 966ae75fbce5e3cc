"""The files of a workspace: what a turn wrote and deleted there, told once each, also what it did in its last moment.

What counts is a look at the whole tree before the turn and another after it. In between `watchfiles`, where it is
installed, says where to look, so that a file is told once it has rested for a moment; nothing depends on it.
"""

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from pathlib import Path
from typing import Any

from runfold.events import Event, FileDeleted, FileWritten, Telemetry
from runner.turns.moves import Moves

SOURCE = "workspace"
FILES_MAX = 20_000  # A look at so many takes a tenth of a second; a larger tree is not watched.
EVENTS_A_LOOK_MAX = 100  # Of two looks a second; what is more is counted.
REST_SECONDS = 1.0  # A program that reports its files itself has done so by then.
PATHS_MAX = 50_000  # That wait for a look, or that the program has told itself.
IGNORED = (
    *(".git", ".hg", ".svn", ".jj", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".nox", ".idea"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".gradle", ".cache", ".DS_Store"),
    *("*.pyc", "*.swp", "*~"),
)

_State = tuple[int, int, int]


class Workspace:
    """One turn's, or that of turns which go on at the same time. Its methods block: call them in a thread, one a time.

    `ignored` are patterns of a name, or, with a `/`, of a path below the folder; `others` are told otherwise.
    """

    def __init__(self, folder: Path, *, ignored: Sequence[str] = (), others: Iterable[Path] = ()) -> None:
        self._folder = os.path.realpath(folder)
        patterns = (*IGNORED, *ignored)
        self._names = _matcher(pattern for pattern in patterns if "/" not in pattern)
        self._paths = _matcher(pattern.strip("/") for pattern in patterns if "/" in pattern)
        self._others = {os.path.relpath(os.path.realpath(Path(folder, path)), self._folder) for path in others}
        self._seen: dict[str, _State] = {}
        self._moved: dict[str, float] = {}
        self._reported: set[str] = set()
        self._moves: Moves | None = None
        self._is_closed = False
        try:
            self._seen = dict(self._below([""]))
        except _TooManyFiles:
            self._is_closed = True

    @property
    def refusal(self) -> Telemetry | None:
        """Why nothing is told; None where it is."""
        if not self._is_closed:
            return None
        return Telemetry(name="workspace_not_watched", data={"folder": _text(self._folder), "files_max": FILES_MAX})

    def reported(self, path: str) -> None:
        """The program has told of this file itself."""
        if len(self._reported) < PATHS_MAX:
            self._reported.add(os.path.relpath(os.path.join(self._folder, path), self._folder))

    def look(self) -> list[Event]:
        """What has changed and then rested."""
        if self._is_closed:
            return []
        with contextlib.suppress(_TooManyFiles):
            if self._moves is None:
                self._moves = Moves(self._folder)
                # What changed before somebody watched.
                self._note(path for path, state in self._below([""]) if self._seen.get(path) != state)
            self._note(self._moves.take())
        rested_before = time.monotonic() - REST_SECONDS
        rested = [path for path, moved_at in self._moved.items() if moved_at <= rested_before]
        for path in rested:
            del self._moved[path]
        with contextlib.suppress(_TooManyFiles):
            return self._told(dict(self._below(rested)), rested)
        return []

    def finish(self) -> list[Event]:
        """Whatever has changed and was not told yet."""
        if self._is_closed:
            return []
        self._moved.clear()
        try:
            return self._told(dict(self._below([""])), [*self._seen])
        except _TooManyFiles:
            self._is_closed = True
            return [refusal] if (refusal := self.refusal) is not None else []

    def close(self) -> None:
        if self._moves is not None:
            self._moves.close()
            self._moves = None

    def _note(self, paths: Iterable[str]) -> None:
        now = time.monotonic()
        for path in paths:
            parts = path.split("/")
            heads = ("/".join(parts[: count + 1]) for count in range(len(parts)))
            if len(self._moved) < PATHS_MAX and not any(map(self._is_ignored, heads, parts)):
                self._moved[path] = now

    def _below(self, paths: Sequence[str]) -> Iterator[tuple[str, _State]]:
        """The files at these paths, and of a folder all that it holds. Raises _TooManyFiles."""
        folders: list[str] = []
        for path in paths:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(self._folder, path))
                if stat.S_ISREG(found.st_mode):
                    yield path, _state(found)
                elif stat.S_ISDIR(found.st_mode):
                    folders.append(path)
        count = 0
        while folders:
            folder = folders.pop()
            with contextlib.suppress(OSError), os.scandir(os.path.join(self._folder, folder)) as entries:
                for entry in entries:
                    count += 1
                    if count > FILES_MAX:
                        raise _TooManyFiles
                    path = os.path.join(folder, entry.name)
                    if self._is_ignored(path, entry.name):
                        continue
                    # It may be gone by now.
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(path)
                        elif entry.is_file(follow_symlinks=False):
                            yield path, _state(entry.stat(follow_symlinks=False))

    def _is_ignored(self, path: str, name: str) -> bool:
        return bool(self._names(name) or self._paths(path)) or path in self._others

    def _told(self, now: dict[str, _State], looked_at: Sequence[str]) -> list[Event]:
        written = sorted(path for path, state in now.items() if self._seen.get(path) != state)
        deleted = sorted(path for path in looked_at if path not in now and path in self._seen and self._is_gone(path))
        events: list[Event] = []
        for path in written:
            kind = "update" if path in self._seen else "add"
            events.append(FileWritten(path=_text(path), bytes=now[path][1], kind=kind, source=SOURCE))
        events += (FileDeleted(path=_text(path), source=SOURCE) for path in deleted)
        self._seen |= {path: now[path] for path in written}
        for path in deleted:
            del self._seen[path]
        kept = [event for event, path in zip(events, [*written, *deleted], strict=True) if path not in self._reported]
        if (more := len(kept) - EVENTS_A_LOOK_MAX) > 0:
            kept[EVENTS_A_LOOK_MAX:] = [Telemetry(name="files_not_told", data={"count": more})]
        return kept

    def _is_gone(self, path: str) -> bool:
        """A folder that can no longer be read has lost nothing."""
        try:
            return not stat.S_ISREG(os.lstat(os.path.join(self._folder, path)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False


class _TooManyFiles(Exception):
    """The tree is larger than a look at it may cost."""


def _matcher(patterns: Iterable[str]) -> Any:
    return re.compile("|".join(map(translate, patterns)) or r"(?!)").match


def _state(found: os.stat_result) -> _State:
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _text(path: str) -> str:
    """A name may hold bytes that are no text."""
    return os.fsencode(path).decode("utf-8", "replace")

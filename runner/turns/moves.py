"""Which paths of a folder have moved: one watcher a folder, for all whose turns work there.

A watcher is a thread that every write below its folder wakes. Runs often share a workspace, and it may hold the data
folder that all of them write to: a watcher each would cost more than everything else that is done for them.
"""

import importlib
import os
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

WAITING_PATHS_MAX = 50_000  # For one reader; what is more is found by a look at the whole tree.


class Moves:
    """What one reader has not taken yet. Its methods block, and may be called in any thread."""

    def __init__(self, folder: str) -> None:
        """From here on what moves is told, where `watchfiles` is there to tell it."""
        self._folder = folder
        with _turn:
            self._watcher = _watchers.setdefault(folder, _Watcher(folder))
            self._watcher.waiting[self] = set()
            self._watcher.look()

    def take(self) -> set[str]:
        """The paths, from the folder on, that moved since the last time."""
        with _turn:
            self._watcher.look()
            moved, self._watcher.waiting[self] = self._watcher.waiting[self], set()
            return moved

    def close(self) -> None:
        with _turn:
            del self._watcher.waiting[self]
            if not self._watcher.waiting:
                del _watchers[self._folder]
                self._watcher.changes.close()


class _Watcher:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.changes = _watch(folder)
        self.waiting: dict[Moves, set[str]] = {}

    def look(self) -> None:
        # Where the system lets nobody watch, the generator has ended: then nothing is told.
        with suppress(OSError, RuntimeError):
            moved = {os.path.relpath(path, self._folder) for _, path in next(self.changes, ())}
            for waiting in self.waiting.values():
                if len(waiting) < WAITING_PATHS_MAX:
                    waiting |= moved


def _watch(folder: str) -> Generator[set[tuple[Any, str]]]:
    """Says at each `next`, at once, which paths have moved since; ends where that cannot be had."""
    try:
        watchfiles = importlib.import_module("watchfiles")
    except ImportError:
        return
    yield from watchfiles.watch(
        folder,
        watch_filter=None,
        debounce=1,
        step=1,
        rust_timeout=1,
        yield_on_timeout=True,
        raise_interrupt=False,
        ignore_permission_denied=True,
    )


_turn = threading.Lock()
_watchers: dict[str, _Watcher] = {}

"""The disks that a power cut could leave behind, made from a record of what was written, synced and renamed.

What was synced is there. Of the rest any part may be, in 512-byte pieces; names are there once their folder was synced.
"""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

SECTOR_BYTES = 512
_head = struct.Struct("<cHqI")


class Change(msgspec.Struct, frozen=True):
    """`op`: Write, Truncate, Sync, Unlink, Rename, or Acknowledged."""

    op: str
    path: str
    offset: int
    content: bytes


def read_changes(records: Path) -> list[Change]:
    content, at, found = records.read_bytes(), 0, list[Change]()
    while at + _head.size <= len(content):
        op, length, offset, size = _head.unpack_from(content, at)
        at += _head.size
        path = content[at : at + length].decode()
        at += length
        found.append(Change(op.decode(), path, offset, content[at : at + size]))
        at += size
    return found


class _File:
    """One file, whatever its name is: what is surely on the disk, and what may be."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[Change] = []

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def after_a_cut(self, chance: random.Random, mode: str) -> bytes:
        content = bytearray(self.durable)
        for change in self.pending:
            if mode == "none" or (mode != "all" and chance.random() < 0.5):
                continue
            if mode == "torn" and change.op == "W" and len(change.content) > SECTOR_BYTES:
                kept = SECTOR_BYTES * chance.randrange(1, len(change.content) // SECTOR_BYTES + 1)
                change = Change("W", change.path, change.offset, change.content[:kept])
            _apply(content, change)
        return bytes(content)


def _apply(content: bytearray, change: Change) -> None:
    if change.op == "W":
        if len(content) < change.offset:
            content.extend(bytes(change.offset - len(content)))
        content[change.offset : change.offset + len(change.content)] = change.content
    elif len(content) > change.offset:
        del content[change.offset :]
    else:
        content.extend(bytes(change.offset - len(content)))


class Disk:
    """The folder as the record goes on; `acknowledged` are the lines said so far."""

    def __init__(self) -> None:
        self.names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._pending_names: list[tuple[str, str, str, _File]] = []
        self.acknowledged: list[str] = []

    def go_on(self, change: Change) -> None:
        if change.op == "A":
            self.acknowledged += change.content.decode().splitlines()
        elif change.op in ("W", "T"):
            if change.path not in self.names:
                self.names[change.path] = _File()
                self._pending_names.append(("create", change.path, "", self.names[change.path]))
            self.names[change.path].pending.append(change)
        elif change.op == "S":
            if change.path in self.names:
                self.names[change.path].sync()
            else:
                self._sync_folder(change.path)
        elif change.op == "U":
            if change.path in self.names:
                self._pending_names.append(("remove", change.path, "", self.names.pop(change.path)))
        elif change.op == "R" and change.path in self.names:
            target = change.content.decode()
            self.names[target] = self.names.pop(change.path)
            self._pending_names.append(("rename", change.path, target, self.names[target]))

    def cut(self, folder: Path, into: Path, chance: random.Random) -> str:
        """Write one disk that could be left; the mode that was drawn."""
        mode = chance.choice(["none", "all", "subset", "torn"])
        names = dict(self._durable_names)
        # A journal of names is written in order: some beginning of it may have come to the disk.
        reached = 0 if mode == "none" else chance.randrange(len(self._pending_names) + 1)
        for step in self._pending_names[: len(self._pending_names) if mode == "all" else reached]:
            _rename(names, step)
        for path, file in names.items():
            target = into / os.path.relpath(path, folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.after_a_cut(chance, mode))
        return mode

    def _sync_folder(self, folder: str) -> None:
        kept = []
        for step in self._pending_names:
            if os.path.dirname(step[2] or step[1]) == folder:
                _rename(self._durable_names, step)
            else:
                kept.append(step)
        self._pending_names = kept


def _rename(names: dict[str, _File], step: tuple[str, str, str, _File]) -> None:
    kind, path, target, file = step
    if kind == "create":
        names[path] = file
    elif kind == "remove":
        names.pop(path, None)
    else:
        names.pop(path, None)
        names[target] = file


def cuts(changes: list[Change], count: int, chance: random.Random) -> Iterator[tuple[int, Disk]]:
    """The disk at so many random moments, in order."""
    moments = set(chance.sample(range(1, len(changes)), min(count, len(changes) - 1)))
    disk = Disk()
    for number, change in enumerate(changes):
        if number in moments:
            yield number, disk
        disk.go_on(change)

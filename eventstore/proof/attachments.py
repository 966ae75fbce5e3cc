"""The proof of what events name outside the log: blobs by their sha256, and the kept output of turns."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from eventstore.blocks import OF_RUN, UPTO
from eventstore.mirrored import mirrored_log
from eventstore.objects.shared_blobs import blob_key, store_of
from eventstore.proof.faults import Fault
from eventstore.sqlite3_module import sqlite3

PAGE_ROWS = 1_000
READ_BYTES = 1024 * 1024
_NAMING = (
    "SELECT position, run_id, type, data FROM events WHERE position > ? AND position <= ?"
    " AND data IS NOT NULL AND (instr(data, '\"sha256\"') OR instr(data, '\"blob\"') OR instr(data, '_sha256\"'))"
    " ORDER BY position LIMIT ?"
)
_TURN_ENDS = "data IS NOT NULL AND type IN ('turn_completed', 'turn_failed', 'turn_cancelled')"
_ENDS = (
    f"SELECT position, run_id, data FROM events WHERE position > ? AND position <= ? AND {_TURN_ENDS}"  # noqa: S608
    " ORDER BY position LIMIT ?"
)
_ENDS_OF_RUN = (
    f"SELECT position, data FROM {OF_RUN} WHERE {UPTO} AND {_TURN_ENDS}"  # noqa: S608
    " ORDER BY block, version LIMIT ?3"
)
_TURNS = (
    "SELECT sum(type = 'turn_started'), sum(type IN ('turn_completed', 'turn_failed', 'turn_cancelled')),"  # noqa: S608
    " sum(type IN ('run_completed', 'run_failed', 'run_cancelled'))"
    f" FROM {OF_RUN} WHERE run_id = ?"
)
TURNS_MAX = 100_000  # More than a run has.


class Attachments:
    """What was looked at: `blobs` and `outputs` count files."""

    def __init__(self, connection: sqlite3.Connection, data: Path) -> None:
        self._connection = connection
        self._data = data
        self.blobs = 0
        self.outputs = 0

    def faults(self, *, upto: int) -> Iterator[Fault]:
        """Blobs that are missing or damaged, and outputs that are not what their turn ended with."""
        sound = dict[str, bool]()
        try:
            for position, run_id, type_name, content in self._naming(upto):
                for sha256 in blobs_of(type_name, content):
                    if sha256 not in sound:
                        sound[sha256] = self._is_sound(sha256)
                        self.blobs += 1
                    if not sound[sha256]:
                        yield Fault(
                            kind="blob",
                            message=f"blob `{sha256}`, named by event {position}, is missing or damaged",
                            run_id=run_id,
                            position=position,
                        )
            yield from self._strangers(sound)
            yield from self._outputs(upto)
        except sqlite3.DatabaseError as error:
            yield Fault(kind="file", message=f"the log's file is damaged: {error}")

    def _naming(self, upto: int) -> Iterator[tuple[int, str, str, Any]]:
        after = 0
        while rows := self._connection.execute(_NAMING, (after, upto, PAGE_ROWS)).fetchall():
            for row in rows:
                try:
                    yield row[0], row[1], row[2], msgspec.json.decode(row[3])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # That its data was altered is told by its hash.
            after = rows[-1][0]

    def _is_sound(self, sha256: str) -> bool:
        try:
            return _digest(self._data / "blobs" / sha256[:2] / sha256) == sha256
        except OSError:
            return False

    def _strangers(self, known: dict[str, bool]) -> Iterator[Fault]:
        """Blobs that no event names may be left by a crash; damaged they are still worth a word."""
        for path in sorted((self._data / "blobs").glob("??/*")):
            if path.name in known or path.name.startswith("."):
                continue
            self.blobs += 1
            if not path.is_file() or _digest(path) != path.name:
                yield Fault(kind="blob", message=f"blob `{path.name}` is damaged; no event names it")

    def _outputs(self, upto: int) -> Iterator[Fault]:
        after, runs, unplaced = 0, dict[str, _Placed](), dict[str, None]()
        while rows := self._connection.execute(_ENDS, (after, upto, PAGE_ROWS)).fetchall():
            for position, run_id, content in rows:
                ended = _object(content)
                path = self._data / "runs" / run_id / "output.log"
                if not ended.get("output_sha256") or not path.exists():
                    continue  # It kept none, or another machine did, or it was cleaned.
                placed = runs.setdefault(run_id, _Placed())
                if ended.get("output_offset") is None:
                    unplaced[run_id] = None
                    continue
                placed.turns, placed.position = placed.turns + 1, position
                placed.end = max(placed.end, ended["output_offset"] + ended.get("output_bytes", 0))
                if _digest(path, ended["output_offset"], ended.get("output_bytes", 0)) != ended[
                    "output_sha256"
                ] and not self._is_shared(ended["output_sha256"]):
                    yield _not_what_ended(run_id, position)
            after = rows[-1][0]
        self.outputs += len(runs)
        for run_id in unplaced:
            yield from self._unplaced(run_id, upto)
        for run_id, placed in runs.items():
            yield from self._behind(run_id, placed)

    def _behind(self, run_id: str, placed: "_Placed") -> Iterator[Fault]:
        """What stands behind the last turn of a run that is over, where each of its turns has told what it wrote."""
        more = (self._data / "runs" / run_id / "output.log").stat().st_size - placed.end
        if more <= 0 or mirrored_log(self._data) is not None:
            return
        started, ended, is_final = self._connection.execute(_TURNS, (run_id,)).fetchone()
        if is_final and started == ended == placed.turns:
            message = f"`output.log` of `{run_id}` has {more:,} bytes behind what its turns wrote"
            yield Fault(kind="output", message=message, run_id=run_id, position=placed.position)

    def _is_shared(self, sha256: str) -> bool:
        """Whether the store of all machines has it: another one drove that turn, and who reads it here brings it."""
        store = store_of(self._data)
        return store is not None and store.has(blob_key(sha256))

    def _unplaced(self, run_id: str, upto: int) -> Iterator[Fault]:
        """Turns that do not say where their output begins: one follows on the other from the file's beginning."""
        path = self._data / "runs" / run_id / "output.log"
        found: list[tuple[int, bytes]] = self._connection.execute(_ENDS_OF_RUN, (run_id, upto, TURNS_MAX)).fetchall()
        ends = [(position, _object(content)) for position, content in found]
        left: list[tuple[int, int, str]] = [
            (position, int(ended.get("output_bytes", 0)), str(ended["output_sha256"]))
            for position, ended in ends
            if ended.get("output_sha256") and ended.get("output_offset") is None
        ]
        offset = 0
        while left:
            # Turns side by side may be recorded in another order than their output was kept.
            fitting = next((turn for turn in left if _digest(path, offset, turn[1]) == turn[2]), None)
            if fitting is None:
                yield _not_what_ended(run_id, left[0][0])
                return
            left = [turn for turn in left if turn is not fitting]
            offset += fitting[1]


class _Placed:
    """The turns of a run that tell where their output stands: how many, the last of them, and where it ends."""

    turns = position = end = 0


def _not_what_ended(run_id: str, position: int) -> Fault:
    message = f"`output.log` of `{run_id}` is not what event {position} ended with"
    return Fault(kind="output", message=message, run_id=run_id, position=position)


def blobs_of(type_name: str, content: Any) -> Iterator[str]:
    if type_name == "artifact_stored" and isinstance(content, dict):
        yield str(cast("dict[str, Any]", content).get("sha256", ""))
    waiting: list[Any] = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            if isinstance(inner.get("blob"), str) and "head" in inner:
                yield inner["blob"]
            else:
                waiting.extend(inner.values())
        elif isinstance(value, list):
            waiting.extend(cast("list[Any]", value))  # type: ignore[redundant-cast]


def _object(content: bytes) -> dict[str, Any]:
    try:
        decoded: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else {}


def _digest(path: Path, offset: int = 0, size_bytes: int | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        left = size_bytes
        while left is None or left > 0:
            chunk = file.read(READ_BYTES if left is None else min(READ_BYTES, left))
            if not chunk:
                break
            digest.update(chunk)
            left = None if left is None else left - len(chunk)
    return digest.hexdigest()

"""Runs in one compressed file that proves itself: what was written is read back whole, or not at all.

The file is a tar in a zstd frame, which `tar --zstd` opens, and after it a frame that zstd skips with the sha256 of all
before it. In the tar are `manifest.json`, `events.jsonl`, and the runs' blobs and files under their names.
"""

import hashlib
import io
import os
import struct
import sys
import tarfile
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from eventstore.blocks import AFTER, OF_RUN
from eventstore.durable import sync
from eventstore.log_file import open_reader
from eventstore.proof.attachments import blobs_of
from eventstore.proof.verifying import hash_of
from eventstore.reading import end_of
from eventstore.rows import recorded_of
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS, WholeRow, whole_rows
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import BadRequest, NotAllowed, NotFound
from runfold.evolve import fold
from runfold.state import Run, new_run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = 1
SUFFIX = ".tar.zst"
PAGE_ROWS = 1_000
READ_BYTES = 1024 * 1024
_FRAME = b"\x28\xb5\x2f\xfd"
_TAG = b"runfold archive "
_SEAL = struct.pack("<II", 0x184D2A50, len(_TAG) + 32) + _TAG
SEAL_BYTES = len(_SEAL) + 32


class ArchivedRun(msgspec.Struct, frozen=True, kw_only=True):
    """`hash` is of the run's last event: it seals every event before it."""

    run_id: str
    tenant: str
    title: str
    status: str
    version: int
    hash: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds; `files` gives the sha256 of each member but this one."""

    format: int
    log_id: str
    made_at_us: int
    runs: tuple[ArchivedRun, ...]
    files: dict[str, str]


class ArchivedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the log's table holds it; digests and ids in hexadecimal, the data as it was."""

    position: int
    run_id: str
    version: int
    id: str
    type: str
    schema: int
    at_us: int
    recorded_at_us: int
    tenant: str
    actor: str
    cause: str | None
    command: str | None
    sent: str | None
    correlation: str
    hash: str
    salt: str | None
    data: msgspec.Raw
    digest: str | None

    def row(self) -> WholeRow:
        data = bytes(self.data)
        return WholeRow(
            position=self.position,
            run_id=self.run_id,
            version=self.version,
            id=bytes.fromhex(self.id),
            type=self.type,
            schema=self.schema,
            at_us=self.at_us,
            recorded_at_us=self.recorded_at_us,
            tenant=self.tenant,
            actor=self.actor,
            cause=_bytes(self.cause),
            command=_bytes(self.command),
            sent=_bytes(self.sent),
            correlation=self.correlation,
            hash=bytes.fromhex(self.hash),
            data=None if self.salt is None and data == b"null" else data,
            salt=_bytes(self.salt),
            digest=_bytes(self.digest),
        )


def write_archive(data: Path, path: Path, run_ids: Sequence[str], *, now_us: int) -> Manifest:
    """Write the runs, each of which rests, with everything they name. Raises NotFound, NotAllowed, BadRequest, OSError.

    The file has its name only when it is whole and on the disk.
    """
    if path.exists():
        raise BadRequest(f"`{path}` exists already", hint="name a new file; nothing was written")
    with closing(open_reader(data)) as connection, tempfile.TemporaryFile() as events:
        connection.execute("BEGIN")  # One moment of the log for all runs.
        digest = hashlib.sha256()
        runs: list[ArchivedRun] = []
        blobs: dict[str, None] = {}
        for run_id in run_ids:
            runs.append(_write_events(connection, run_id, events, digest, blobs))
        log_id = connection.execute("SELECT log_id FROM head").fetchone()[0]
        # What follows may take as long as the disk wants, and the log's journal must not wait for it.
        connection.execute("COMMIT")
        members = _members(data, run_ids, blobs)
        manifest = Manifest(
            format=FORMAT,
            log_id=log_id,
            made_at_us=now_us,
            runs=tuple(runs),
            files={"events.jsonl": digest.hexdigest()} | {name: _sha256(file) for name, file in members.items()},
        )
        _write_file(path, manifest, events, members)
    return manifest


def is_archive(path: Path) -> bool:
    """Whether a file is, or was before it was damaged, one of ours."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(_FRAME)) == _FRAME:
            return True
        file.seek(-SEAL_BYTES, 2)
        return _TAG in file.read(len(_SEAL))
    return False


@contextmanager
def open_archive(path: Path) -> Generator[tuple[Manifest, Iterator[tuple[str, IO[bytes]]]]]:
    """The manifest, and each member's name and content, in order. Raises BadRequest before anything is given."""
    _check_seal(path)
    try:
        with zstd.open(path, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            first = tar.next()
            content = None if first is None else tar.extractfile(first)
            if first is None or first.name != "manifest.json" or content is None:
                raise _damaged(path, "it does not begin with a manifest")
            manifest = msgspec.json.decode(content.read(), type=Manifest)
            if manifest.format > FORMAT:
                raise BadRequest(f"`{path}` is of a newer runfold", hint="upgrade runfold; nothing was changed")
            yield manifest, _members_of(path, tar, manifest)
    except (tarfile.TarError, zstd.ZstdError, msgspec.DecodeError, EOFError) as error:
        raise _damaged(path, str(error)) from error


def read_rows(path: Path, content: IO[bytes], manifest: Manifest) -> Iterator[WholeRow]:
    """The events, each proved by the hash of its run. Raises BadRequest."""
    heads: dict[str, tuple[int, bytes]] = {}
    for line in content:
        row = msgspec.json.decode(line, type=ArchivedEvent).row()
        version, previous = heads.get(row.run_id, (0, b""))
        if row.version != version + 1 or hash_of(row, previous) != row.hash:
            raise _damaged(path, f"version {row.version} of `{row.run_id}` does not match its hash")
        heads[row.run_id] = row.version, row.hash
        yield row
    if heads != {run.run_id: (run.version, bytes.fromhex(run.hash)) for run in manifest.runs}:
        raise _damaged(path, "its runs are not those of its manifest")


def _write_events(
    connection: sqlite3.Connection, run_id: str, events: IO[bytes], digest: Any, blobs: dict[str, None]
) -> ArchivedRun:
    run, after, last = new_run(run_id), 0, b""
    query = f"SELECT {WHOLE_COLUMNS} FROM {OF_RUN} WHERE {AFTER} ORDER BY block, version LIMIT {PAGE_ROWS}"  # noqa: S608
    while rows := [*whole_rows(connection.execute(query, (run_id, after)))]:
        for row in rows:
            line = msgspec.json.encode(archived_of(row)) + b"\n"
            digest.update(line)
            events.write(line)
            if row.data is not None:
                with suppress(msgspec.DecodeError):
                    blobs.update(dict.fromkeys(blobs_of(row.type, msgspec.json.decode(row.data))))
        run = fold(run, map(recorded_of, rows))
        after, last = rows[-1].position, rows[-1].hash
    if not run.version or run_id == SYSTEM_STREAM:
        end_of(connection, after=0, stream=run_id)  # Of one that was trimmed it says where it is.
        raise NotFound(f"run `{run_id}` is not known", hint="`runfold ps --all` lists the runs", run_id=run_id)
    if not run.is_resting:
        raise NotAllowed(
            f"run `{run_id}` is {run.status}: it is not over",
            hint=f"`runfold wait {run_id}` waits for its end",
            run_id=run_id,
        )
    return _archived(run, last)


def _archived(run: Run, last: bytes) -> ArchivedRun:
    return ArchivedRun(
        run_id=run.run_id,
        tenant=run.tenant,
        title=run.title,
        status=str(run.status),
        version=run.version,
        hash=last.hex(),
    )


def _members(data: Path, run_ids: Sequence[str], blobs: dict[str, None]) -> dict[str, Path]:
    named = {f"blobs/{sha256}": data / "blobs" / sha256[:2] / sha256 for sha256 in blobs}
    for run_id in run_ids:
        for path in sorted((data / "runs" / run_id).glob("*")):
            named[f"runs/{run_id}/{path.name}"] = path
    return {name: path for name, path in named.items() if path.is_file()}


def _write_file(path: Path, manifest: Manifest, events: IO[bytes], members: dict[str, Path]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary_name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(temporary_name)
    try:
        options: dict[int, int] = {
            zstd.CompressionParameter.checksum_flag: 1,
            zstd.CompressionParameter.compression_level: 9,
        }
        with open(handle, "wb") as raw:
            with zstd.open(raw, "wb", options=options) as plain, tarfile.open(fileobj=plain, mode="w|") as tar:
                content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
                _add(tar, "manifest.json", io.BytesIO(content), len(content))
                size_bytes = events.tell()
                events.seek(0)
                _add(tar, "events.jsonl", events, size_bytes)
                for name, member in members.items():
                    with member.open("rb") as file:
                        _add(tar, name, file, member.stat().st_size)
            raw.flush()
            with temporary.open("rb") as written:
                seal = _SEAL + hashlib.file_digest(written, "sha256").digest()
            raw.write(seal)
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size_bytes: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size_bytes, 0o600
    tar.addfile(member, content)


def _members_of(path: Path, tar: tarfile.TarFile, manifest: Manifest) -> Iterator[tuple[str, IO[bytes]]]:
    names = set(manifest.files)
    while (member := tar.next()) is not None:
        content = tar.extractfile(member)
        if member.name not in names or content is None:
            raise _damaged(path, f"`{member.name}` is not in its manifest")
        names.remove(member.name)
        yield member.name, content
    if names:
        raise _damaged(path, f"`{min(names)}` is missing")


def _check_seal(path: Path) -> None:
    try:
        with path.open("rb") as file:
            left = path.stat().st_size - SEAL_BYTES
            digest = hashlib.sha256()
            while left > 0 and (chunk := file.read(min(READ_BYTES, left))):
                digest.update(chunk)
                left -= len(chunk)
            seal = file.read()
    except FileNotFoundError:
        raise NotFound(f"there is no file `{path}`", hint="`runfold export RUN FILE` writes one") from None
    if seal != _SEAL + digest.digest():
        raise _damaged(path, "its content does not match its seal")


def _damaged(path: Path, what: str) -> BadRequest:
    return BadRequest(f"the archive `{path}` is damaged: {what}", hint="take another copy of it; nothing was changed")


def archived_of(row: WholeRow) -> ArchivedEvent:
    named = row._asdict()
    for name in ("id", "cause", "command", "sent", "hash", "salt", "digest"):
        named[name] = None if named[name] is None else named[name].hex()
    named["data"] = msgspec.Raw(b"null" if named["data"] is None else named["data"])
    return ArchivedEvent(**named)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The way that is always there: a file of requests, a line each, that whoever can write the log takes in.

Its writer holds a lock on it, so that nobody takes it in half; the kernel drops the lock with the process.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from runfold.client.place import SPOOL_FOLDER
from runfold.client.requests import Answer, ArtifactBody, Request, Unreachable, decode_request, encode_request

FILES_FOLDER = "files"
TAKEN = Answer(status=202, body=msgspec.Raw(b'{"status":"running"}'))


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: for which server the rest is; empty for the log of the folder."""

    spool: int = 1
    url: str = ""


class SpoolWay:
    def __init__(self, data: Path, run: str, url: str) -> None:
        """Raises Unreachable where the file cannot be written."""
        self.path = data / SPOOL_FOLDER / f"{run}.jsonl"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if os.fstat(self._descriptor).st_size == 0:
                self._write(msgspec.json.encode(Head(url=url)))
        except OSError as error:
            raise Unreachable(f"`{self.path}` cannot be written: {error.strerror}") from error

    def send(self, request: Request) -> Answer:
        """Kept, and on the disk, before it is answered. Raises Unreachable."""
        try:
            if request.do == "artifact":
                request = self._with_copy(request)
            if request.do != "heartbeat":
                self._write(encode_request(request))
        except OSError as error:
            raise Unreachable(f"`{self.path}` cannot be written: {error.strerror}") from error
        return TAKEN

    def requests(self) -> Iterator[Request]:
        return read_requests(self.path)

    def remove(self) -> None:
        """What it held has been taken in elsewhere."""
        remove_spool(self.path)
        os.close(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        content, size = line + b"\n", os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, content) != len(content):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._descriptor)

    def _with_copy(self, request: Request) -> Request:
        body = msgspec.json.decode(request.body, type=ArtifactBody)
        source = Path(body.path)
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        folder = self.path.parent / FILES_FOLDER / self.path.stem
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = folder / sha256
        shutil.copyfile(source, copy)
        kept = msgspec.structs.replace(body, path=str(copy))
        return msgspec.structs.replace(request, body=msgspec.Raw(msgspec.json.encode(kept)))


def read_head(path: Path) -> Head:
    """Raises OSError, MsgspecError."""
    with path.open("rb") as file:
        return msgspec.json.decode(file.readline(), type=Head)


def read_requests(path: Path) -> Iterator[Request]:
    """The whole lines after the head; half of one, left by a writer that was killed, was never answered."""
    with path.open("rb") as file:
        file.readline()
        for line in file:
            if not line.endswith(b"\n"):
                return
            with suppress(msgspec.MsgspecError):
                yield decode_request(line)


def remove_spool(path: Path) -> None:
    path.unlink(missing_ok=True)
    shutil.rmtree(path.parent / FILES_FOLDER / path.stem, ignore_errors=True)

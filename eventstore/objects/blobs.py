"""Blobs by their sha256: once `put` returns, the content is on the disk and complete."""

import hashlib
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore.durable import sync
from eventstore.objects.shared_blobs import fetch, share
from runfold.errors import BadRequest, NotFound, Unavailable

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Incoming:
    """A blob that arrives in parts. It has its name only when `keep` returns; `discard` leaves nothing."""

    def __init__(self, data: Path) -> None:
        """Raises Unavailable where the folder cannot be written."""
        self._data = data
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        with _storing(data / "blobs"):
            _make_folder(data / "blobs")
            handle, self._temporary = tempfile.mkstemp(dir=data / "blobs", prefix=".new-")
            self._file = os.fdopen(handle, "wb")

    def write(self, chunk: bytes) -> None:
        with _storing(self._data / "blobs"):
            self._file.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def keep(self) -> str:
        """The sha256 under which the content is on the disk now; the same content again changes nothing."""
        sha256 = self._digest.hexdigest()
        path = _path(self._data, sha256)
        with _storing(path.parent):
            _make_folder(path.parent)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, path)
            sync(path.parent)
        share(self._data, sha256, path)
        return sha256

    def discard(self) -> None:
        """What was not kept goes; after `keep` there is nothing left to go."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._temporary)


def put(data: Path, content: bytes) -> str:
    """Store the content under its sha256, which is returned; the same content again changes nothing.

    A damaged blob is whole again afterwards. Raises Unavailable where the folder cannot be written.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    path = _path(data, sha256)
    try:
        _make_folder(path.parent)
        if not (path.exists() and path.read_bytes() == content):
            _write(path, content)
        # Also for a known blob: who stored it may not have come this far yet.
        sync(path.parent)
    except OSError as error:
        raise Unavailable(
            f"blob `{sha256}` cannot be stored in `{path.parent}`: {error.strerror}",
            hint="free or repair the disk, or make the folder writable; then try again",
        ) from error
    share(data, sha256, path)
    return sha256


def path_of(data: Path, sha256: str) -> Path:
    """Where a blob is kept; one that another machine made is brought here first. Raises NotFound when it is absent."""
    path = _path(data, sha256)
    if not path.is_file() and not fetch(data, sha256, path):
        raise NotFound(f"blob `{sha256}` is not stored")
    return path


def get(data: Path, sha256: str) -> bytes:
    """The content of a blob. Raises NotFound when it is absent or no longer matches its name."""
    try:
        content = path_of(data, sha256).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"blob `{sha256}` is not stored") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise NotFound(f"blob `{sha256}` is damaged", hint="run `runfold verify`; restore it from a backup")
    return content


@contextmanager
def _storing(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"a blob cannot be stored in `{folder}`: {error.strerror}",
            hint="free or repair the disk, or make the folder writable; then try again",
        ) from error


def _path(data: Path, sha256: str) -> Path:
    if not _SHA256.fullmatch(sha256):
        raise BadRequest(f"`{sha256}` is not a sha256", hint="64 hexadecimal digits in lower case")
    return data / "blobs" / sha256[:2] / sha256


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder and what is above it; each new name is durable in the folder that holds it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync(folder.parent)

"""One turn's part of `output.log`: whole and in order, with its size and digest, until the disk has no room for it."""

import hashlib
import os
from errno import ENOSPC
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024  # What output leaves of the disk: the log has to tell how the run ended.
LOOK_BYTES = 1024 * 1024  # How much is written between two looks at what is left.


class OutputFile:
    """`error` says why it keeps nothing any more; what was kept until then stays, and is what the digest is of."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.began_at = os.fstat(self._descriptor).st_size
        self.size_bytes = 0
        self.error = ""
        self._hash = hashlib.sha256()
        self._look_at_bytes = LOOK_BYTES

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, content: bytes) -> bytes:
        """What was kept: the content, or as much of it as there was room for."""
        if self.error:
            return b""
        kept = 0
        try:
            self._look()
            while kept < len(content):
                kept += os.write(self._descriptor, content[kept:])
        except OSError as error:
            self.error = (error.strerror or str(error)).lower()
        content = content[:kept]
        self._hash.update(content)
        self.size_bytes += kept
        return content

    def close(self) -> None:
        """Make it durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self.error = self.error or (error.strerror or str(error)).lower()
        finally:
            os.close(self._descriptor)

    def _look(self) -> None:
        if self.size_bytes < self._look_at_bytes:
            return
        self._look_at_bytes = self.size_bytes + LOOK_BYTES
        disk = os.fstatvfs(self._descriptor)
        if disk.f_bavail * disk.f_frsize < RESERVE_BYTES:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

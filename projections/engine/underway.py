"""How far a rebuild of the views is: told by who does it in a small file, for whoever shows it meanwhile."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

UNDERWAY_FILE = "rebuilding.json"
TELL_SECONDS = 0.5
SIZE_BYTES = 256  # Always the same and written at once, so nobody reads a half of it.


class Underway(msgspec.Struct, frozen=True, kw_only=True):
    """`done` of `total`: positions of the log; the check of what was folded comes after the last."""

    pid: int
    done: int
    total: int

    @property
    def sentence(self) -> str:
        return f"they are being folded anew: {self.done:,} of {self.total:,} events"


_decode = msgspec.json.Decoder(Underway).decode


@contextmanager
def told(data: Path) -> Generator[Callable[[int, int], None]]:
    """A function of (done, total) that tells it now and then, until this is left."""
    path, file, told_at = data / UNDERWAY_FILE, -1, 0.0

    def tell(done: int, total: int) -> None:
        nonlocal file, told_at
        now = time.monotonic()
        if told_at and now - told_at < TELL_SECONDS:
            return
        told_at = now
        content = msgspec.json.encode(Underway(pid=os.getpid(), done=done, total=total)).ljust(SIZE_BYTES)
        # In its place: another name in the folder each time would tell the server that something was written. Whoever
        # cannot write it still rebuilds.
        with suppress(OSError):
            if file < 0:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(file, content, 0)

    try:
        yield tell
    finally:
        if file >= 0:
            os.close(file)
            path.unlink(missing_ok=True)


def read_underway(data: Path) -> Underway | None:
    """The rebuild that is going on; None where there is none, or the one that told it is gone."""
    try:
        found = _decode((data / UNDERWAY_FILE).read_bytes())
        os.kill(found.pid, 0)
    except (OSError, OverflowError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found

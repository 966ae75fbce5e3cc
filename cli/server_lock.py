"""One server a data folder: a lock that the kernel drops with its process, and in the file who holds it."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runfold.client.place import LOCK_FILE, read_lock
from runfold.client.place import Server as Server
from runfold.client.place import running_server as running_server
from runfold.errors import NotAllowed


@contextmanager
def server_lock(data: Path) -> Generator[int, None, None]:
    """Be the one server of a data folder. Raises NotAllowed, naming the other."""
    descriptor = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = read_lock(data)
            who = f"process {other.pid} at {other.url or 'its address'}" if other else "another process"
            raise NotAllowed(
                f"`{data}` is already served by {who}",
                hint=f"`kill {other.pid}` stops it" if other else "another data folder can be given with --data",
            ) from None
        write_lock(descriptor, Server(pid=os.getpid()))
        yield descriptor
        # The file stays: removing it would let a third process lock a file that nobody else sees.
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def write_lock(descriptor: int, server: Server) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(server), 0)

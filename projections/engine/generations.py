"""Which file holds the served views: `CURRENT` names it, moves in one step, and a file goes when nobody reads it."""

import fcntl
import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore.durable import sync
from runfold.errors import InvalidSetting

CURRENT_FILE = "CURRENT"
FOLD_LOCK_FILE = "views.lock"
REBUILD_LOCK_FILE = "rebuild.lock"
LOCK_POLL_SECONDS = 0.005
_NUMBER = re.compile(r"[1-9][0-9]{0,8}\n?")
_FILE = re.compile(r"views\.([0-9]+)\.db.*")


def current_generation(data: Path) -> int:
    """The number of the generation that is served. Raises InvalidSetting where that cannot be told."""
    path = data / CURRENT_FILE
    try:
        text = path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return 1
    except OSError as error:
        raise InvalidSetting(
            f"`{path}` cannot be read: {error.strerror}", hint="make it readable, or move it away; the log is not in it"
        ) from None
    if not _NUMBER.fullmatch(text):
        raise InvalidSetting(
            f"`{path}` does not hold a number",
            hint="delete it; the views are folded anew from the log, and nothing of a run is in it",
        )
    return int(text)


def views_file(data: Path, generation: int) -> Path:
    return data / f"views.{generation}.db"


def switch_to(data: Path, generation: int) -> None:
    """Point every reader at a generation, from its next look on; durable when this returns."""
    temporary = data / f"{CURRENT_FILE}.new"
    with temporary.open("wb") as file:
        file.write(b"%d\n" % generation)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(data / CURRENT_FILE)
    sync(data)


def use(data: Path, generation: int) -> int | None:
    """A lock that keeps a generation's files where they are until it is closed; None where nothing can be written.

    Whoever removed them before this returned had been pointed elsewhere, so look at `CURRENT` again afterwards.
    """
    try:
        lock = os.open(_users_file(data, generation), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def remove_unused(data: Path) -> None:
    """Remove the generations that are neither served nor being built, but for those that somebody still reads."""
    found = {int(match[1]) for path in data.glob("views.*.db*") if (match := _FILE.fullmatch(path.name))}
    for generation in sorted(found):
        with suppress(OSError):
            _remove_if_unused(data, generation)


def remove_files(data: Path, generation: int) -> None:
    """Remove a generation's database, as its builder, who holds the lock on it."""
    for suffix in ("", "-wal", "-shm"):
        path = views_file(data, generation)
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    remove_parts(data, generation)


def remove_parts(data: Path, generation: int) -> None:
    """Remove what helpers of a rebuild that was cut have left."""
    for part in data.glob(f"{views_file(data, generation).name}-part*"):
        part.unlink(missing_ok=True)


def _remove_if_unused(data: Path, generation: int) -> None:
    # A half-built next one is kept: the next rebuild goes on with it.
    if generation in _kept(data):
        return
    lock = os.open(_users_file(data, generation), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Looked at again under the lock: without its users' lock nobody can make it the served one now.
        if generation not in _kept(data):
            remove_files(data, generation)
            _users_file(data, generation).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _kept(data: Path) -> tuple[int, int]:
    current = current_generation(data)
    return current, current + 1


def _users_file(data: Path, generation: int) -> Path:
    return data / f"views.{generation}.db-users"


@contextmanager
def locked(data: Path, name: str, wait_seconds: float) -> Generator[bool]:
    """Whether this process holds the named lock now. The lock goes with its holder, however that ends."""
    deadline = time.monotonic() + wait_seconds
    with (data / name).open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
            time.sleep(LOCK_POLL_SECONDS)
        yield True

"""Changes of files that belong to a transaction of the log: all are made when it is committed, none when it is not.

The intent is on the disk before the commit and names the event that the commit adds. Whoever opens the log next for
writing finds it, and finishes it or takes it back, by whether the log has that event.
"""

from contextlib import suppress
from pathlib import Path

import msgspec

from eventstore.durable import sync, write_durably
from eventstore.failpoints import reach
from eventstore.identified import known_pairs
from eventstore.rows import uuid_bytes
from eventstore.sqlite3_module import sqlite3

FOLDER = "pending"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are relative to the data folder. `renames`: a file made ready, and the one it takes the place of."""

    run_id: str
    event_id: str
    renames: tuple[tuple[str, str], ...] = ()
    removals: tuple[str, ...] = ()


def announce(data: Path, intent: Intent) -> None:
    """Durable before the commit, or else nobody would know after a crash what is to be done."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    temporary = folder / f".{intent.event_id}"
    write_durably(temporary, msgspec.json.encode(intent))
    temporary.replace(folder / f"{intent.event_id}.json")
    sync(folder)
    sync(data)


def settle(data: Path, connection: sqlite3.Connection) -> None:
    """Finish what is committed and take back what is not; the caller holds the log's lock."""
    folder = data / FOLDER
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            path.unlink()
            continue
        intent = msgspec.json.decode(path.read_bytes(), type=Intent)
        is_committed = known_pairs(connection, [(intent.run_id, uuid_bytes(intent.event_id))])
        for ready, target in intent.renames:
            if is_committed:
                with suppress(FileNotFoundError):  # It has its name already.
                    (data / ready).replace(data / target)
                    sync((data / target).parent)
                reach("intent.renamed")
            else:
                (data / ready).unlink(missing_ok=True)
        for name in intent.removals if is_committed else ():
            remove(data / name)
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


def remove(path: Path) -> None:
    """Take a file away, and its folder where it was the last one."""
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            inner.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)

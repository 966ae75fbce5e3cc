"""The copying of a log in a process of its own, which goes on with its batch when who asked for it is stopped.

SQLite keeps the journal for who reads in a batch: were it the process of a terminal, Ctrl-Z would let the journal grow.
`python -m eventstore.copying LOG COPY` is that process; it prints its progress, and at the end the manifest.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from eventstore.backup import Manifest, copy_log
from eventstore.reading import open_reader
from eventstore.sqlite3_module import sqlite3
from runfold.errors import Unavailable


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of what the copying process says: how far it is, or how it ended. `ended` without a manifest: earlier
    events were changed meanwhile."""

    done: int = 0
    total: int = 0
    ended: bool = False
    manifest: Manifest | None = None
    error: str = ""


def copy_beside(log: Path, copy: Path, on_progress: Callable[[int, int], None] | None = None) -> Manifest | None:
    """As `copy_log`. Raises Unavailable where the copy cannot be written."""
    command = [sys.executable, "-m", "eventstore.copying", str(log), str(copy)]
    # In a session of its own, so that what a terminal sends to its programs does not stop it.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.error:
                raise Unavailable(f"the log cannot be copied: {said.error}", hint="free or repair the disk of the copy")
            if said.ended:
                return said.manifest
            if on_progress is not None:
                on_progress(said.done, said.total)
        raise Unavailable("the log cannot be copied: the process that copies it ended", hint="back it up again")
    finally:
        process.kill()
        process.communicate()


def _say(said: Said) -> None:
    # Whoever asked is gone where this fails, and nobody needs the copy.
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def _main(log: Path, copy: Path) -> None:
    try:
        with closing(open_reader(log.parent)) as source:
            manifest = copy_log(source, log, copy, lambda done, total: _say(Said(done=done, total=total)))
    except (OSError, sqlite3.Error) as error:
        _say(Said(error=str(error)))
    else:
        _say(Said(ended=True, manifest=manifest))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))

"""A log checked from its beginning by a second process, while the first one folds it without looking.

`python -m eventstore.checking_beside DATA UPTO` is that second process, which prints what it found.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from eventstore.checking import checks_of, open_checked
from eventstore.reading import bounds, open_reader, read_facts
from runfold.errors import Damaged, Unavailable

CHECKED_HERE_EVENTS = 20_000  # Fewer are checked before another process has started.


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Up to position `true` every event is what was appended; `damage` is what does not match after it."""

    true: int
    damage: str = ""
    hint: str = ""
    run_id: str | None = None


class CheckBeside:
    """Begins at once where there is much to check, and ends with the process that asked."""

    def __init__(self, data: Path) -> None:
        """Of a folder that has a log. A mirror of another log is checked as it is filled. Raises NotFound."""
        self._data = data
        self._is_needed = checks_of(data) is not None
        with closing(open_reader(data)) as reader:
            self._upto = bounds(reader).last
        self._process: subprocess.Popen[bytes] | None = None
        if self._is_needed and self._upto > CHECKED_HERE_EVENTS:
            command = [sys.executable, "-m", "eventstore.checking_beside", str(data), str(self._upto)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def wait(self) -> Found:
        """What is to be said of the events that were there at the beginning. Raises Unavailable."""
        if self._process is None:
            return self.go_on(Found(true=0), self._upto)
        said, _ = self._process.communicate()
        self._process = None
        try:
            return msgspec.json.decode(said, type=Found)
        except msgspec.DecodeError as error:
            raise Unavailable("the log could not be checked", hint="`runfold verify` says why") from error

    def go_on(self, found: Found, upto: int) -> Found:
        """The same with the events that have come since, checked in this process."""
        if found.damage or not self._is_needed:
            return found
        return check(self._data, found.true, upto)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def check(data: Path, after: int, upto: int, *, on_page: Callable[[], None] = lambda: None) -> Found:
    """Check the events after a position up to another."""
    try:
        with closing(open_checked(data)) as log:
            while after < upto:
                _, after = read_facts(log, after=after, upto=upto, kept=True)
                on_page()
    except Damaged as error:
        return Found(true=after, damage=error.message, hint=error.hint, run_id=error.run_id)
    return Found(true=after)


def _main(data: Path, upto: int) -> None:
    first = os.getppid()

    def look() -> None:
        if os.getppid() != first:
            raise SystemExit("the process that asked for this is gone")

    gc.disable()  # It makes no cycles, and ends.
    sys.stdout.buffer.write(msgspec.json.encode(check(data, 0, upto, on_page=look)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))

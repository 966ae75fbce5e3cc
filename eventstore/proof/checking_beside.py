"""A log checked from its beginning by other processes, for one that folds it without looking.

`python -m eventstore.proof.checking_beside DATA AFTER UPTO PID` is such a process, asked by PID; it prints what it
found.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec

from eventstore.log_file import open_reader
from eventstore.proof.checking import checks_of, open_checked
from eventstore.reading import bounds, check_next
from runfold.errors import Damaged, Unavailable

CHECKED_HERE_EVENTS = 20_000  # Fewer are checked before another process has started.


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Up to position `true` every event is what was appended; `damage` is what does not match after it."""

    true: int
    damage: str = ""
    hint: str = ""
    run_id: str | None = None


class CheckBeside:
    """Begins at once, in another process, where there is much to check; it ends with the one that asked.

    Of several workers the one that waits is the last.
    """

    def __init__(self, data: Path, *, workers: int = 1) -> None:
        """Of a folder that has a log. A mirror of another log is checked as it is filled. Raises NotFound."""
        self._data = data
        self._is_needed = checks_of(data) is not None
        with closing(open_reader(data)) as reader:
            self._upto = bounds(reader).last
        self._processes: list[subprocess.Popen[bytes]] = []
        self._here: tuple[int, int] | None = None
        """What is left for the one that waits."""
        if self._is_needed and self._upto > CHECKED_HERE_EVENTS:
            # So many more for the one that waits as it checks before the others have started.
            starts = [(self._upto - CHECKED_HERE_EVENTS) * number // workers for number in range(workers)]
            parts = list(pairwise([*starts, self._upto]))
            if workers > 1:
                self._here = parts.pop()
            for after, upto in parts:
                command = [sys.executable, "-m", "eventstore.proof.checking_beside", str(data), str(after), str(upto)]
                command.append(str(os.getpid()))
                self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))

    def wait(self) -> Found:
        """What is to be said of the events that were there at the beginning. Raises Unavailable."""
        if not self._processes:
            return self.go_on(Found(true=0), self._upto)
        last = [] if self._here is None else [check(self._data, *self._here)]
        answers = [process.communicate()[0] for process in self._processes]
        self._processes.clear()
        try:
            every = [*(msgspec.json.decode(answer, type=Found) for answer in answers), *last]
        except msgspec.DecodeError as error:
            raise Unavailable("the log could not be checked", hint="`runfold verify` says why") from error
        return next((found for found in every if found.damage), every[-1])

    def go_on(self, found: Found, upto: int) -> Found:
        """The same with the events that have come since, checked in this process."""
        if found.damage or not self._is_needed:
            return found
        return check(self._data, found.true, upto)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes.clear()


def check(data: Path, after: int, upto: int, *, on_page: Callable[[], None] = lambda: None) -> Found:
    """Check the events after a position up to another."""
    try:
        with closing(open_checked(data)) as log:
            while after < upto:
                after = check_next(log, after=after, upto=upto)
                on_page()
    except Damaged as error:
        return Found(true=after, damage=error.message, hint=error.hint, run_id=error.run_id)
    return Found(true=after)


def _main(data: Path, after: int, upto: int, asked_by: int) -> None:
    def look() -> None:
        if os.getppid() != asked_by:
            raise SystemExit("the process that asked for this is gone")

    gc.disable()  # It makes no cycles, and ends.
    sys.stdout.buffer.write(msgspec.json.encode(check(data, after, upto, on_page=look)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *map(int, sys.argv[2:]))

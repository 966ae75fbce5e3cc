"""A rebuild shared by two processes: a second one folds some views into a file of its own, whose rows are then copied.

`python -m projections.engine.sharing DATA FILE HEAD PAGE PID VIEW…` is that second process, asked by PID, which folds
so many events a page. Its file says how far it is, so where both were killed the next rebuild goes on in both.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from projections.catalogue import VIEWS
from projections.engine.generations import locked
from projections.engine.projector import Projector
from projections.engine.view import View
from runfold.errors import Contended

PART_LOCK_FILE = "rebuild-part.lock"
PART_WAIT_SECONDS = 30.0  # Who has lost the first process sees it after a page, and ends.
PIPE_BYTES = 64 * 1024  # All that waits in it, so the last line is the newest and whole.
SHARED = frozenset({"runs", "timeline"})
"""What the second process folds: with its start and the reading of every event about half of the work.

The rest is `audit`, whose many rows need then not be copied and which hears of no output, and what few events are for.
"""


class Helper:
    """The second process. It ends with the first one; whatever it has not folded then, the first process folds."""

    def __init__(self, data: Path, path: Path, views: Sequence[View], *, head: int, page_events: int) -> None:
        command = [sys.executable, "-m", "projections.engine.sharing", str(data), str(path), str(head)]
        command += [str(page_events), str(os.getpid()), *(view.name for view in views)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def wait(self, on_page: Callable[[int], object]) -> None:
        """`on_page` hears how far it has come, and nothing of how far it was before."""
        assert self._process.stdout is not None  # noqa: S101
        while told := os.read(self._process.stdout.fileno(), PIPE_BYTES):
            on_page(int(told.split()[-1]))
        self._process.wait()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def part_file(generation: Path) -> Path:
    """Where the second process folds to, for a generation's file."""
    return generation.with_name(f"{generation.name}-part")


def wait_for_helper(data: Path) -> None:
    """Wait until the second process of a rebuild that was killed is gone. Raises Contended."""
    with locked(data, PART_LOCK_FILE, PART_WAIT_SECONDS) as is_gone:
        if not is_gone:
            raise Contended(
                f"the second process of another rebuild has held `{PART_LOCK_FILE}` for {PART_WAIT_SECONDS:g} s",
                hint="wait until it has ended",
            )


def shareable(views: Sequence[View]) -> list[View]:
    """What a second process can fold: the views that it knows by their names, and that are worth it."""
    known = {view.name: view.fingerprint for view in VIEWS}
    return [view for view in views if view.name in SHARED and known.get(view.name) == view.fingerprint]


def fold_part(data: Path, path: Path, head: int, page_events: int, asked_by: int, names: Sequence[str]) -> None:
    def look() -> None:
        if os.getppid() != asked_by:
            raise SystemExit("the process that asked for this part is gone")

    def tell(done: int) -> None:
        look()
        os.write(sys.stdout.fileno(), b"%d\n" % done)  # Whole lines, which `print` does not write without a buffer.

    gc.disable()
    views = Projector(data, tuple(view for view in VIEWS if view.name in names), page_events, is_building=True)
    with locked(data, PART_LOCK_FILE, PART_WAIT_SECONDS) as is_ours:
        # Who came late may find another rebuild at work in this file.
        look()
        if not is_ours:
            raise SystemExit(f"another process holds `{PART_LOCK_FILE}`")
        try:
            views.build(path)
            views.catch_up(views.open_log(), head, on_page=tell)
        finally:
            views.close()


if __name__ == "__main__":
    head, page_events, asked_by = map(int, sys.argv[3:6])
    fold_part(Path(sys.argv[1]), Path(sys.argv[2]), head, page_events, asked_by, sys.argv[6:])

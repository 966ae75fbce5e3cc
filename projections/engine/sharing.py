"""A rebuild shared by two processes: a second one folds some views into a file of its own, whose rows are then copied.

`python -m projections.engine.sharing DATA FILE HEAD PID VIEW…` is that second process, asked by PID.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from eventstore.contract import PAGE_EVENTS
from projections.catalogue import VIEWS
from projections.engine.projector import Projector
from projections.engine.view import View

PAGE_EVENTS_SHARED = 32 * PAGE_EVENTS
SHARED = frozenset({"runs", "timeline", "usage", "history", "stats"})
"""What the second process folds: with the reading of every event about half of the work.

The rest is `audit`, whose many rows need then not be copied and which hears of no output, and what few events are for.
"""


class Helper:
    """The second process, and where it folds to. It ends with the first one."""

    def __init__(self, data: Path, path: Path, views: Sequence[View], *, head: int) -> None:
        self.views = views
        self.path = path
        names = [view.name for view in views]
        command = [sys.executable, "-m", "projections.engine.sharing", str(data), str(path), str(head)]
        command += [str(os.getpid()), *names]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self) -> bool:
        """Whether it has folded all of it; where it has not, the first process folds those views too."""
        return self._process.wait() == 0

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for suffix in ("", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def shareable(views: Sequence[View]) -> list[View]:
    """What a second process can fold: the views that it knows by their names, and that are worth it."""
    known = {view.name: view.fingerprint for view in VIEWS}
    return [view for view in views if view.name in SHARED and known.get(view.name) == view.fingerprint]


def fold_part(data: Path, path: Path, head: int, asked_by: int, names: Sequence[str]) -> None:
    def look(_: int) -> None:
        if os.getppid() != asked_by:
            raise SystemExit("the process that asked for this part is gone")

    gc.disable()
    views = Projector(data, tuple(view for view in VIEWS if view.name in names), PAGE_EVENTS_SHARED, is_building=True)
    try:
        views.build(path)
        views.catch_up(views.open_log(), head, on_page=look)
    finally:
        views.close()


if __name__ == "__main__":
    fold_part(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])

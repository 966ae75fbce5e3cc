"""What the tests of rebuilding share: small logs, every row of the views, and a rebuild that is cut off."""

import subprocess
import sys
from pathlib import Path

from eventstore.sqlite import SqliteLog
from projections.catalogue import VIEWS
from projections.engine.projector import Freshness
from projections.engine.view import View
from projections.engine.views import Views
from runfold.events import Message, RunQueued, RunStarted
from tests.histories import append

ROOT = Path(__file__).parent.parent

# Folds seven events a page, and is killed when so many pages are done.
CUT = """
import os, signal, sys
from pathlib import Path
from projections.engine import rebuilding
rebuilding.PAGE_EVENTS_BUILDING = 7
left = int(sys.argv[2])
def progress(done, total):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
print(rebuilding.rebuild(Path(sys.argv[1]), only=sys.argv[3:], on_progress=progress).folded_from)
"""


def cut_after(data: Path, pages: int, *only: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CUT, str(data), str(pages), *only], cwd=ROOT, text=True, capture_output=True, check=False
    )


def rows(data: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every view, after it caught up."""
    views = Views.open(data)
    try:
        views.refresh()
        names = views.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        return {
            name: sorted(views.connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for (name,) in names
            if name != "checkpoints"
        }
    finally:
        views.close()


async def write(data: Path, *, runs: int) -> None:
    log = await SqliteLog.open(data)
    for number in range(runs):
        await append(log, f"r_{number}", RunQueued(), RunStarted(pid=1), Message(text="m"))
    await log.close()


def refreshed(data: Path, views: tuple[View, ...] = VIEWS) -> Freshness:
    opened = Views.open(data, views=views)
    try:
        return opened.refresh()
    finally:
        opened.close()

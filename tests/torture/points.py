"""A program that does one piece of work again and again, and meets a fault one change of the disk later each time.

`points WORK FOLDER ERRNO TIMES EVERY`: a process of its own for each point, forked, so nothing is started anew.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import traceback
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from eventstore.keeping.cleaning import FOLDER as ARCHIVES
from eventstore.keeping.cleaning import candidates, clean
from eventstore.keeping.restoring import restore
from eventstore.log_file import open_reader
from eventstore.objects import blobs
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.engine.rebuilding import rebuild
from projections.engine.views import Views
from runfold.errors import RunfoldError, Unavailable
from tests.leaked import record
from tests.torture.shim import arm, calls
from tests.torture.soundness import new, wrongs

RUNS = 3
ROUNDS = 4
COUNT_ONLY = 1 << 40
Say = Callable[[str], object]


async def _append(data: Path, say: Say, *, rounds: int = ROUNDS) -> None:
    log = await SqliteLog.open(data)
    try:
        for number in range(rounds):
            stream = f"r_{number % RUNS}"
            last = await log.last(stream)
            identities = [str(uuid.uuid4()) for _ in range(3)]
            appended = await log.append(
                stream,
                [new(f"{number} " + "x" * 700, identity) for identity in identities],
                expected=0 if last is None else last.position,
            )
            for offset, identity in enumerate(identities):
                say(f"event {stream} {appended.first + offset} {identity}")
    finally:
        await log.close()


def append(data: Path, say: Say) -> None:
    asyncio.run(_append(data, say))


def blob(data: Path, say: Say) -> None:
    for number in range(3):
        say(f"blob {blobs.put(data, b'content %d ' % number * 999)}")


def project(data: Path, say: Say) -> None:
    views = Views.open(data, page_events=5)
    try:
        if views.refresh(wait_seconds=20).stale:
            raise Unavailable("the views are stale, and say so")
    finally:
        views.close()


def build_anew(data: Path, say: Say) -> None:
    rebuild(data)
    rebuild(data, only=("history",))


def archive(data: Path, say: Say) -> None:
    """Empty what is over, of which the archive holds all, and put it back."""
    clean(data, candidates(data, before_us=2**62, whole=False), actor="system")
    _bring_back(data)


def _bring_back(data: Path) -> None:
    for path in sorted((data / ARCHIVES).glob("*.zst")):
        restore(path, data, actor="system")


def lacking(data: Path) -> list[str]:
    """What of the runs neither the log nor an archive beside it holds any more."""
    try:
        _bring_back(data)
        with closing(open_reader(data)) as connection:
            rows = connection.execute("SELECT position FROM events WHERE data IS NULL LIMIT 9").fetchall()
    except Exception as error:
        return [f"it is not brought back: {type(error).__name__}: {error}"]
    return [f"the data of event {position} is lost" for (position,) in rows]


WORKS: dict[str, Callable[[Path, Say], None]] = {
    "append": append,
    "blob": blob,
    "project": project,
    "rebuild": build_anew,
    "archive": archive,
}


def prepare(work: str, data: Path) -> None:
    """What is there before: nothing for an append, a log for the rest, and views for a rebuild."""
    if work != "append":
        asyncio.run(_append(data, lambda line: None, rounds=7))
    if work == "rebuild":
        project(data, print)
    if work == "archive":
        asyncio.run(record(data))


def one_point(work: str, data: Path, at: int, error: int, times: int) -> tuple[int, list[str], int]:
    """The child's end, what it acknowledged, and how many changes it made."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        os.close(read)
        try:
            arm(at, error, times)
            WORKS[work](data, lambda line: os.write(write, f"{line}\n".encode()))
        except (RunfoldError, sqlite3.Error, OSError):
            code = 3
        except BaseException:
            traceback.print_exc()
            code = 4
        finally:
            os.write(write, b"calls %d\n" % calls())
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as said:
        lines = said.read().splitlines()
    _, status = os.waitpid(child, 0)
    counted = next((int(line.split()[1]) for line in lines if line.startswith("calls ")), at)
    return os.waitstatus_to_exitcode(status), [line for line in lines if not line.startswith("calls ")], counted


def main() -> None:
    work, folder = sys.argv[1], Path(sys.argv[2])
    error, times, every = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    start = folder / "start"
    start.mkdir()
    prepare(work, start)
    data = folder / "data"
    ends: dict[int, int] = {}
    found: list[str] = []
    at = 1
    while True:
        shutil.copytree(start, data)
        code, acknowledged, counted = one_point(work, data, at, error, times)
        ends[code] = ends.get(code, 0) + 1
        if code == 4:
            found.append(f"point {at}: an error that nobody expects")
        found += [f"point {at}: {wrong}" for wrong in wrongs(data, acknowledged, views=work != "blob")]
        if work == "archive":
            found += [f"point {at}: {wrong}" for wrong in lacking(data)]
        shutil.rmtree(data)
        if counted < at:
            break
        at += every
    print(
        json.dumps(
            {
                "points": at - 1,
                "killed": ends.get(-signal.SIGKILL, 0),
                "refused": ends.get(3, 0),
                "ended": ends.get(0, 0),
                "wrong": found,
            }
        )
    )


if __name__ == "__main__":
    main()

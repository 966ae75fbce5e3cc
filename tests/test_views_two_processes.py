"""Two processes that fold into one views file leave what one would have left."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from projections.engine.view import decode_run
from projections.engine.views import Views
from runfold.envelope import Recorded
from runfold.evolve import fold
from runfold.state import Run, new_run
from tests.histories import write_some

# Reads `refresh` lines until its input ends, so each process keeps its memory warm between turns.
FOLDER = """
import sys
from pathlib import Path
from projections.engine.views import Views
views = Views.open(Path(sys.argv[1]), page_events=int(sys.argv[2]))
for line in sys.stdin:
    freshness = views.refresh(wait_seconds=20)
    print(freshness.position, freshness.stale, flush=True)
views.close()
"""


def start(data: Path, page_events: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FOLDER, str(data), str(page_events)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def ask(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("refresh\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [False, True])
async def test_two_processes_with_warm_memory_leave_rows_equal_to_a_refold(tmp_path: Path, at_once: bool) -> None:
    chance = random.Random(11)
    log = await SqliteLog.open(tmp_path)
    pair = [start(tmp_path, 3), start(tmp_path, 4)]

    try:
        for number in range(60):
            for _ in range(4):
                await write_some(log, chance)
            asked = pair if at_once else [pair[number % 2]]
            for process in asked:
                ask(process)
            head = (await log.bounds()).last
            assert [answer(process) for process in asked] == [[str(head), "False"]] * len(asked)
    finally:
        for process in pair:
            process.communicate(timeout=20)
    await log.close()

    assert [process.returncode for process in pair] == [0, 0]
    views = Views.open(tmp_path)
    found = {row[0]: decode_run(row[1]) for row in views.connection.execute("SELECT run_id, body FROM runs")}
    transitions = views.connection.execute("SELECT position FROM history ORDER BY position").fetchall()
    views.close()
    connection, runs, changes, after = open_reader(tmp_path), dict[str, Run](), list[tuple[int]](), 0
    while page := read_page(connection, after=after).events:
        after = page[-1].position
        for recorded in page:
            assert isinstance(recorded, Recorded)
            before = runs.get(recorded.run_id, new_run(recorded.run_id))
            runs[recorded.run_id] = fold(before, [recorded])
            if runs[recorded.run_id].status != before.status:
                changes.append((recorded.position,))
    connection.close()
    assert found == runs
    assert transitions == changes


# Each opens the same new folders in the same order, so that all meet at the making of every file.
OPENER = """
import sys
from pathlib import Path
from projections.engine.views import Views
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir(exist_ok=True)
    views = Views.open(folder)
    views.refresh()
    views.close()
"""


@pytest.mark.slow
def test_many_processes_may_make_the_same_views_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert answer(process) == ["ready"]

    for process in processes:
        ask(process)
    for process in processes:
        process.communicate(timeout=60)

    assert [process.returncode for process in processes] == [0] * len(processes)

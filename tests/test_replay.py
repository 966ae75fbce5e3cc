"""A run played again, and a run as it was: what is shown at any moment is the fold of what the log held then."""

import contextlib
import random
import sys
from pathlib import Path

import pytest

from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from projections.past import At, run_at
from runfold.envelope import Recorded
from runfold.errors import NotFound
from runfold.evolve import fold
from runfold.state import new_run
from tests.histories import write_some
from tests.terminal import Screen, environment, read, record, runfold


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_a_run_at_every_position_of_a_random_log_is_the_fold_of_its_prefix(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = await SqliteLog.open(tmp_path)
    for _ in range(25):
        await write_some(log, chance)
    await log.close()
    connection = open_reader(tmp_path)
    held: list[Recorded] = []
    while events := read_page(connection, after=held[-1].position if held else 0).events:
        held += events

    with contextlib.closing(connection):
        for run_id in sorted({recorded.run_id for recorded in held}):
            prefix: list[Recorded] = []
            for recorded in held:
                if recorded.run_id == run_id:
                    prefix.append(recorded)
                if not prefix:
                    with pytest.raises(NotFound):
                        run_at(connection, run_id, At(position=recorded.position))
                    continue
                expected = fold(new_run(run_id), prefix), prefix[-1].position
                assert run_at(connection, run_id, At(position=recorded.position)) == expected


@pytest.mark.slow
def test_a_replay_without_a_terminal_is_a_line_an_event_and_stops_where_it_is_told(tmp_path: Path) -> None:
    record(tmp_path)
    events = read(tmp_path, "events", "@last")["items"]

    whole = runfold(tmp_path, "replay", "@last")
    third = runfold(tmp_path, "replay", "@last", "--at", str(events[2]["position"]))
    before = runfold(tmp_path, "replay", "@last", "--at", "2020-01-01T00:00:00Z")

    assert len(whole.stdout.splitlines()) == len(events)
    assert third.stdout.splitlines() == whole.stdout.splitlines()[:3]
    assert before.returncode == 1
    assert "was not there yet" in before.stderr


@pytest.mark.slow
def test_a_replay_on_a_terminal_ends_at_the_status_of_now_and_writes_nothing(tmp_path: Path) -> None:
    record(tmp_path)
    status = runfold(tmp_path, "status", "@last").stdout.splitlines()
    held = files(tmp_path)
    command = [sys.executable, "-m", "runfold", "replay", "@last", "--speed", "1000"]
    screen = Screen(command, environment(tmp_path, NO_COLOR="1"))

    code = screen.end()
    screen.close()

    assert code == 0
    # Every picture is drawn over the one before it; the last begins where the run's name stands for the last time.
    pictures = screen.shown.replace("\r\n", "\n").split(f"{status[0].split('   ')[0]} ")
    last = f"{status[0].split('   ')[0]} {pictures[-1]}"
    assert "completed" in last
    for line in status:
        assert line.split("[")[0].rstrip() in last
    assert screen.shown.rstrip().endswith("\x1b[?7h\x1b[?25h")
    assert files(tmp_path) == held

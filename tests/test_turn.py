"""What a turn holds open it lets go of once, however it ends, and then it writes to nothing any more."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runfold.events import Event, Unknown
from runner.turns.listener import Listener
from runner.turns.output import Output
from runner.turns.turn import Turn, TurnPlan


def plan(*argv: str) -> TurnPlan:
    return TurnPlan(argv=argv, environment=dict(os.environ), stdin=b"", grace_seconds=0.2)


def opened(folder: Path, *argv: str) -> Turn:
    return Turn.open(plan(*argv), run_id="r_turn", path=folder / "output.log", listener=Listener())


async def ignore(events: Sequence[Event | Unknown], output: Output) -> None:
    pass


async def test_who_ends_a_turn_that_is_over_writes_into_no_file_that_was_opened_since(tmp_path: Path) -> None:
    turn = opened(tmp_path, "true")
    before: Any = await turn.run(ignore)
    # Numbers of descriptors are given again, the lowest first.
    opened_since = [os.open(tmp_path / f"{number}", os.O_RDWR | os.O_CREAT, 0o600) for number in range(20)]

    turn.end()
    turn.end(at_once=True)
    turn.send(b"S")

    for descriptor in opened_since:
        os.close(descriptor)
    assert before.report.exit_code == 0
    assert [(tmp_path / f"{number}").read_bytes() for number in range(20)] == [b""] * 20

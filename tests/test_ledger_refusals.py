"""The trace of what was refused: at most one event per run, kind and minute, which says how often."""

from contextlib import suppress
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Claim, Command, Complete, Observe, Pause
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import RunfoldError
from runfold.events import CommandRefused, FileWritten, LateEventRejected, Message
from tests.ledgers import RUN, act, opened, say, stored

MINUTE_US = 60_000_000


class Clock:
    us = 1_000 * MINUTE_US

    def __call__(self) -> int:
        return self.us


async def refuse(ledger: Ledger, command: Command, times: int = 1, tenant: str = "default", run_id: str = RUN) -> None:
    for _ in range(times):
        with suppress(RunfoldError):
            await act(ledger, command, tenant=tenant, run_id=run_id)


def traces(data: Path, stream: str) -> list[CommandRefused | LateEventRejected]:
    events = [recorded.event() for recorded in stored(data, stream)]
    return [event for event in events if isinstance(event, CommandRefused | LateEventRejected)]


async def test_refusals_of_a_minute_leave_one_trace_and_the_next_says_how_many_there_were(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path):
        log = await SqliteLog.open(tmp_path)
        ledger = Ledger(log, now_us=clock)
        await refuse(ledger, Claim(worker="w"), times=5)
        first = traces(tmp_path, RUN)
        clock.us += MINUTE_US
        await refuse(ledger, Claim(worker="w"))
        await log.close()

    assert [(event.refused, event.code, event.count) for event in first if isinstance(event, CommandRefused)] == [
        ("claim", "not_allowed", 1)
    ]
    assert [event.count for event in traces(tmp_path, RUN)] == [1, 5]
    assert traces(tmp_path, SYSTEM_STREAM) == []


async def test_late_events_leave_a_trace_by_type_on_the_system_stream_and_the_final_run_does_not_grow(
    tmp_path: Path,
) -> None:
    late = Observe(events=(Message(text="a"), Message(text="b"), FileWritten(path="p", bytes=1)))
    async with opened(tmp_path) as ledger:
        await act(ledger, Complete())
        count = len(stored(tmp_path))
        await refuse(ledger, late, times=3)
        await refuse(ledger, Pause(), times=3)

    assert len(stored(tmp_path)) == count
    found = traces(tmp_path, SYSTEM_STREAM)
    assert [(event.event_type, event.count) for event in found if isinstance(event, LateEventRejected)] == [
        ("message", 2),
        ("file_written", 1),
    ]
    assert [event.refused for event in found if isinstance(event, CommandRefused)] == ["pause"]
    assert {recorded.tenant for recorded in stored(tmp_path, SYSTEM_STREAM)} == {"default"}


async def test_two_processes_leave_one_trace_of_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path):
        logs = [await SqliteLog.open(tmp_path) for _ in range(2)]
        ledgers = [Ledger(log, now_us=clock) for log in logs]
        for ledger in ledgers:
            await refuse(ledger, Claim(worker="w"), times=2)
        clock.us += MINUTE_US
        for ledger in ledgers:
            await refuse(ledger, Claim(worker="w"))
        for log in logs:
            await log.close()

    assert [event.count for event in traces(tmp_path, RUN)] == [1, 2]


async def test_a_refused_stranger_leaves_no_trace(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await refuse(ledger, Claim(worker="w"), tenant="other")
        await refuse(ledger, Claim(worker="w"), run_id="r_x")

    for stream in (RUN, "r_x", SYSTEM_STREAM):
        assert traces(tmp_path, stream) == []


async def test_a_trace_does_not_stand_in_the_way_of_the_next_command(tmp_path: Path) -> None:

    async with opened(tmp_path) as ledger:
        await refuse(ledger, Claim(worker="w"))
        answer = await act(ledger, say("after"))

    assert answer.run.version == len(stored(tmp_path))

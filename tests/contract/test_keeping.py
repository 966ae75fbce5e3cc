"""What is taken out of a log for good: a text, or whole streams; everybody else reads and appends as before."""

from pathlib import Path

import pytest

from eventstore.contract import EventLog
from eventstore.jetstream.log import JetStreamLog
from eventstore.keeping.restoring import opened_archive
from eventstore.sqlite import SqliteLog
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import BadRequest, Conflict, NotAllowed, NotFound, Trimmed
from runfold.events import RunArchived
from tests.contract.events import SECRET, all_events, new_event, run


async def test_a_redacted_text_is_gone_for_every_reader_and_nothing_else_is(log: EventLog, other: EventLog) -> None:
    events = run()
    first = await log.append("r_a", events, expected=0)
    await log.append("r_b", run(), expected=0)

    is_gone = await other.redact("r_a", texts=[SECRET], reason="leaked", actor="user:a")

    assert not is_gone  # The other stream says it too.

    for reader in (log, other):
        found = await all_events(reader, stream="r_a")
        assert [event.type for event in found] == [*(event.type for event in events), "event_redacted"]
        assert [(event.position, event.id, event.hash) for event in found[:5]] == [
            (event.position, event.id, event.hash) for event in first.events
        ]
        assert found[2].data == b'{"text":"I use [redacted] here"}'
        assert SECRET.encode() in ((await all_events(reader, stream="r_b"))[2].data or b"")
    again = await log.append("r_a", events, expected=0)
    assert (again.duplicate, again.first) == (True, first.first)
    with pytest.raises(Conflict):
        await log.append("r_a", [new_event()], expected=first.last)
    assert (await log.append("r_a", [new_event()], expected=found[-1].position)).version == 7
    # The servers of a shared log have journals of their own, which are shortened later.
    assert await log.redact("r_b", texts=[SECRET], actor="user:a") is not isinstance(log, JetStreamLog)


async def test_a_whole_event_is_redacted_and_one_that_the_fate_of_the_stream_hangs_on_is_not(log: EventLog) -> None:
    appended = await log.append("r_a", run(), expected=0)

    await log.redact("r_a", positions=[appended.first + 2], actor="user:a")

    assert (await all_events(log, stream="r_a"))[2].data is None
    with pytest.raises(NotAllowed, match="nobody would know"):
        await log.redact("r_a", positions=[appended.last], actor="user:a")
    with pytest.raises(NotFound):
        await log.redact("r_unknown", texts=[SECRET], actor="user:a")
    with pytest.raises(BadRequest, match="at least"):
        await log.redact("r_a", texts=["abc"], actor="user:a")


async def test_an_archived_stream_is_in_the_file_as_it_was(log: EventLog, other: EventLog, tmp_path: Path) -> None:
    await log.append("r_a", run(), expected=0)
    await log.append("r_b", run(), expected=0)
    before = await all_events(log, stream="r_a")

    await other.archive(["r_a"], tmp_path / "a.tar.zst")

    with opened_archive(tmp_path / "a.tar.zst") as folder:
        inside = await SqliteLog.open(folder)
        found = await all_events(inside)
        await inside.close()
    assert [(event.id, event.hash, event.data) for event in found if event.run_id != SYSTEM_STREAM] == [
        (event.id, event.hash, event.data) for event in before
    ]
    assert await all_events(log, stream="r_a") == before
    with pytest.raises(BadRequest, match="exists already"):
        await log.archive(["r_a"], tmp_path / "a.tar.zst")


async def test_a_trimmed_stream_is_gone_whole_and_takes_nothing_from_another(log: EventLog, other: EventLog) -> None:
    await log.append("r_a", run(), expected=0)
    kept = await log.append("r_open", run(ended=False), expected=0)

    gone = await other.trim(["r_a", "r_open", "r_unknown"], actor="user:a")

    assert gone == ("r_a",)
    for reader in (log, other):
        assert [event.id for event in await all_events(reader, stream="r_open")] == [it.id for it in kept.events]
        with pytest.raises(Trimmed):
            await all_events(reader, stream="r_a")
        with pytest.raises(Trimmed):
            await all_events(reader)
        (told,) = [event.event() for event in await all_events(reader, stream=SYSTEM_STREAM)]
        assert isinstance(told, RunArchived)
        assert (told.run_id, told.counts["trimmed"]) == ("r_a", 5)
    with pytest.raises(Conflict):
        await log.append("r_a", [new_event()], expected=0)
    assert (await log.append("r_open", [new_event()], expected=kept.last)).version == 5
    assert await log.trim(["r_a"], actor="user:a") == ()

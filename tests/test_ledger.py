"""The ledger's promises on a real log: stored once, answered as the first time."""

import asyncio
import uuid
from pathlib import Path

from eventstore.anchoring import verify_chain
from eventstore.ledger import Ledger
from eventstore.reading import open_reader
from eventstore.sqlite import SqliteLog
from runfold.commands import Complete, Observe, OpenReported
from runfold.events import Message, RunQueued


async def test_64_callers_on_one_run_are_each_stored_once_and_a_retry_after_the_end_gets_its_first_answer(
    tmp_path: Path,
) -> None:
    log = await SqliteLog.open(tmp_path)
    ledger = Ledger(log)
    who = {"actor": "user:a", "tenant": "default"}
    await ledger.execute("r_a", OpenReported(queued=RunQueued(driver="reported")), command_id=str(uuid.uuid4()), **who)
    ids = [str(uuid.uuid4()) for _ in range(64)]
    wishes = [Observe(events=(Message(text=str(number)),)) for number in range(64)]

    answers = await asyncio.gather(
        *(
            ledger.execute("r_a", wish, command_id=name, ids=[name], **who)
            for name, wish in zip(ids, wishes, strict=True)
        )
    )
    await ledger.execute("r_a", Complete(), command_id=str(uuid.uuid4()), **who)
    await log.close()
    log = await SqliteLog.open(tmp_path)
    again = await Ledger(log).execute("r_a", wishes[7], command_id=ids[7], ids=[ids[7]], **who)
    await log.close()

    assert sorted(answer.events[0].id for answer in answers) == sorted(ids)
    assert again.duplicate
    assert again.events == answers[7].events
    reader = open_reader(tmp_path)
    assert verify_chain(reader) == []
    reader.close()


async def test_two_events_of_the_same_content_are_stored_with_different_digests_of_what_was_sent(
    tmp_path: Path,
) -> None:
    log = await SqliteLog.open(tmp_path)
    ledger = Ledger(log)
    who = {"actor": "user:a", "tenant": "default"}
    await ledger.execute("r_a", OpenReported(queued=RunQueued(driver="reported")), command_id=str(uuid.uuid4()), **who)
    ids = [str(uuid.uuid4()) for _ in range(2)]
    wish = Observe(events=(Message(text="the same"), Message(text="the same")))

    answer = await ledger.execute("r_a", wish, command_id=str(uuid.uuid4()), ids=ids, **who)
    again = await ledger.execute("r_a", wish, command_id=str(uuid.uuid4()), ids=ids, **who)
    await log.close()

    assert answer.events[0].sent != answer.events[1].sent
    assert again.duplicate
    assert again.events == answer.events

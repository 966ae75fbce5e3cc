"""Many callers of one run, of one process and of several: all are answered, each for what he sent, and none is lost."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from eventstore.contract import Done, Page
from eventstore.ledger import CONFLICTS_MIN, CONTENTION_SECONDS, Executed, Ledger
from eventstore.log_file import open_reader
from eventstore.proof.verifying import Proof
from eventstore.sqlite import SqliteLog
from runfold.commands import Annotate, Complete, Pause, Resume
from runfold.envelope import NewEvent
from runfold.errors import Contended, EventIdConflict, RunfoldError
from tests.ledgers import RUN, act, messages, new_ids, opened, say, stored
from tests.processes import output_of

CALLERS = 64


async def outcome_of(ledger: Ledger, *texts: str, ids: Sequence[str | None] = ()) -> Executed | RunfoldError:
    try:
        return await act(ledger, say(*texts), ids=ids)
    except RunfoldError as error:
        return error


async def test_64_callers_on_one_run_are_each_stored_once_and_each_retry_gets_its_first_answer(tmp_path: Path) -> None:
    ids = new_ids(CALLERS)
    async with opened(tmp_path) as ledger:

        async def all_of_them() -> list[Executed]:
            # Half of them name their events, the others their command.
            return await asyncio.gather(
                *(
                    act(ledger, say(name), ids=[name]) if number % 2 else act(ledger, say(name), command_id=name)
                    for number, name in enumerate(ids)
                )
            )

        first = await all_of_them()
        at_once = await all_of_them()
        await act(ledger, Complete())
        after_the_end = await all_of_them()
    async with opened(tmp_path) as ledger:
        after_a_restart = await asyncio.gather(*(act(ledger, say(name), command_id=name) for name in ids[::2]))

    assert messages(tmp_path) == ids
    for answers in (at_once, after_the_end):
        assert all(answer.duplicate for answer in answers)
        assert [answer.events for answer in answers] == [answer.events for answer in first]
    assert [answer.events for answer in after_a_restart] == [answer.events for answer in first[::2]]
    reader = open_reader(tmp_path)
    assert list(Proof(reader).faults()) == []
    reader.close()


async def test_callers_who_are_ready_together_share_an_append(tmp_path: Path) -> None:
    log = await CountingLog.made(tmp_path)
    ledger = Ledger(log)
    async with opened(tmp_path):
        await act(ledger, say("first"))
        log.appends = 0

        await asyncio.gather(*(act(ledger, say(str(number))) for number in range(CALLERS)))
    await log.close()

    assert log.appends == 1


async def test_who_comes_while_an_append_is_on_its_way_shares_the_next(tmp_path: Path) -> None:
    log = await CountingLog.made(tmp_path)
    ledger = Ledger(log)
    async with opened(tmp_path):
        await act(ledger, say("first"))
        log.appends = 0

        ahead = asyncio.create_task(act(ledger, say("ahead")))
        while not log.appends:
            await asyncio.sleep(0)
        after = await asyncio.gather(*(act(ledger, say(str(number))) for number in range(CALLERS)))
        before = await ahead
    await log.close()

    assert log.appends == 2
    assert after[0].events[0].version == before.events[0].version + 1


@pytest.mark.parametrize("bad", ["other content", "too large", "a time after the year 9999", "the id of another event"])
async def test_one_bad_caller_is_refused_alone(tmp_path: Path, bad: str) -> None:
    (known,) = new_ids(1)
    command_id = str(uuid.uuid4())
    async with opened(tmp_path) as ledger:
        await act(ledger, say("known"), ids=[known])

        async def offend() -> Executed:
            match bad:
                case "other content":
                    return await act(ledger, say("other"), ids=[known])
                case "too large":
                    return await act(ledger, say("x" * 1_000_000))
                case "a time after the year 9999":
                    return await ledger.execute(
                        RUN, say("x"), ats_us=[10**18], actor="user:a", tenant="default", ids=new_ids(1)
                    )
                case _:
                    # The id that a neighbour's event derives from its command.
                    taken = str(uuid.uuid5(uuid.UUID(command_id), "0"))
                    return await act(ledger, say("x"), ids=[taken])

        neighbours = [act(ledger, say(str(number))) for number in range(5)]
        mine = act(ledger, say("5"), command_id=command_id)
        outcomes = await asyncio.gather(*neighbours, mine, offend(), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes[:6]] == [Executed] * 6
    assert isinstance(outcomes[6], RunfoldError)
    assert messages(tmp_path) == ["known", *map(str, range(6))]


async def test_a_batch_with_one_conflict_costs_two_appends(tmp_path: Path) -> None:
    """The offender is found by lookup, not by trying each caller alone."""
    (known,) = new_ids(1)
    log = await CountingLog.made(tmp_path)
    async with opened(tmp_path):
        ledger = Ledger(log)
        await act(ledger, say("known"), ids=[known])
        log.appends = 0

        calls = [outcome_of(ledger, str(number), ids=new_ids(1)) for number in range(CALLERS)]
        outcomes = await asyncio.gather(*calls, outcome_of(ledger, "other", ids=[known]))
    await log.close()

    assert isinstance(outcomes[-1], EventIdConflict)
    assert log.appends == 2


async def test_a_retry_beside_its_original_gets_the_same_answer(tmp_path: Path) -> None:
    (name,) = new_ids(1)
    async with opened(tmp_path) as ledger:
        answers = await asyncio.gather(*(act(ledger, say("a"), ids=[name]) for _ in range(10)))
        notes = await asyncio.gather(*(act(ledger, Annotate(note="n"), command_id=name) for _ in range(10)))

    assert {answer.events for answer in answers} == {answers[0].events}
    assert [answer.duplicate for answer in answers] == [False] + [True] * 9
    assert {note.events for note in notes} == {notes[0].events}
    assert messages(tmp_path) == ["a"]


async def test_what_is_more_than_one_append_takes_goes_in_several(tmp_path: Path) -> None:
    log = await CountingLog.made(tmp_path)
    async with opened(tmp_path):
        ledger = Ledger(log)
        await act(ledger, say("first"))
        log.appends = 0
        many = await asyncio.gather(*(act(ledger, say(*["x"] * 200)) for _ in range(5)))
        by_count, log.appends = log.appends, 0
        large = await asyncio.gather(*(act(ledger, say("y" * 60_000)) for _ in range(17)))
    await log.close()

    assert by_count == 3
    assert log.appends == 3
    assert all(len(answer.events) == 200 for answer in many)
    assert len({answer.events[0].position for answer in large}) == 17


@pytest.mark.slow
@pytest.mark.parametrize("is_named", [False, True])
async def test_a_leader_cancelled_at_any_point_loses_nothing_of_the_others(tmp_path: Path, is_named: bool) -> None:
    """Who names his command leads, for it is looked up; who does not is the first of those who are served at once."""
    async with opened(tmp_path) as ledger:
        for turns in range(100):
            ids = new_ids(4)
            name = str(uuid.uuid4()) if is_named else None
            leader = asyncio.create_task(act(ledger, say(f"leader {turns}"), command_id=name))
            others = [asyncio.create_task(outcome_of(ledger, name, ids=[name])) for name in ids[:2]]
            others.append(asyncio.create_task(outcome_of(ledger, ids[2])))
            for _ in range(turns):
                await asyncio.sleep(0)
            leader.cancel()
            last = asyncio.create_task(outcome_of(ledger, ids[3]))
            with suppress(asyncio.CancelledError):
                await leader

            outcomes = await asyncio.gather(*others, last)

            assert [outcome.events[0].event() for outcome in outcomes if isinstance(outcome, Executed)] == [
                say(name).events[0] for name in ids
            ]
    texts = messages(tmp_path)
    assert len(texts) == len(set(texts))
    assert len([text for text in texts if not text.startswith("leader")]) == 400


async def test_a_leader_that_goes_while_its_append_flies_lets_no_other_decide_on_the_state_before(
    tmp_path: Path,
) -> None:
    log = await HeldLog.made(tmp_path)
    async with opened(tmp_path):
        ledger = Ledger(log)
        await act(ledger, say("first"))
        log.is_open.clear()
        leader = asyncio.create_task(act(ledger, Pause()))
        await log.held.wait()
        follower = asyncio.create_task(act(ledger, Resume()))
        leader.cancel()
        # Long enough for the follower to be answered from the state before.
        for _ in range(5):
            await ledger.state(RUN)
        log.is_open.set()
        answer = await follower
        with suppress(asyncio.CancelledError):
            await leader
    await log.close()

    assert "run_resumed" in [recorded.type for recorded in answer.events]


@pytest.mark.slow
async def test_two_processes_on_one_run_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    theirs, ours = new_ids(60), new_ids(60)
    async with opened(tmp_path) as ledger:
        report = asyncio.create_task(output_of("report.py", tmp_path, RUN, *theirs))
        answers = list[Executed]()
        for name in ours:
            answers.append(await act(ledger, say(name), ids=[name]))
        output = await report

    said = {line.split()[0]: int(line.split()[1]) for line in output.splitlines()}
    said |= {answer.events[0].id: answer.events[0].position for answer in answers}
    assert sorted(messages(tmp_path)) == sorted(theirs + ours)
    assert said == {recorded.id: recorded.position for recorded in stored(tmp_path) if recorded.type == "message"}


async def test_a_command_is_refused_only_on_a_state_that_the_log_confirms(tmp_path: Path) -> None:
    async with opened(tmp_path) as here, opened(tmp_path) as elsewhere:
        await act(here, Pause())
        await act(elsewhere, Resume())

        resumed = await here.state(RUN)
        await act(elsewhere, Pause())
        # The cached state says running, which would make this nothing to do.
        answer = await act(here, Resume())

    assert resumed.status == "running"
    assert "run_resumed" in [recorded.type for recorded in answer.events]


async def test_who_is_overtaken_for_two_seconds_is_told_to_try_again_and_nothing_of_his_is_stored(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as elsewhere:
        log = await OvertakenLog.made(tmp_path)
        log.rival = elsewhere
        ledger = Ledger(log, monotonic=lambda: log.conflicts * CONTENTION_SECONDS / 10)
        with pytest.raises(Contended) as caught:
            await act(ledger, say("mine"))
        log.rival = None
        after = await act(ledger, say("mine"))
        await log.close()

    assert caught.value.status == 503
    assert caught.value.retry_after_seconds == 1
    assert log.conflicts == 11
    assert messages(tmp_path).count("mine") == 1
    assert not after.duplicate


async def test_who_was_overtaken_little_while_the_machine_stood_still_is_stored(tmp_path: Path) -> None:
    async with opened(tmp_path) as elsewhere:
        log = await OvertakenLog.made(tmp_path)
        log.rival, log.conflicts_max = elsewhere, CONFLICTS_MIN - 1
        ledger = Ledger(log, monotonic=lambda: log.conflicts * CONTENTION_SECONDS)
        try:
            answer = await act(ledger, say("mine"))
        finally:
            await log.close()
    assert log.conflicts == CONFLICTS_MIN - 1
    assert (answer.duplicate, messages(tmp_path).count("mine")) == (False, 1)


async def test_the_cost_of_a_command_does_not_grow_with_the_run(tmp_path: Path) -> None:
    log = await CountingLog.made(tmp_path)
    async with opened(tmp_path) as elsewhere:
        ledger = Ledger(log)
        await act(ledger, say("first"))
        for _ in range(8):
            await act(elsewhere, say(*["x"] * 500))
        await ledger.state(RUN)
        log.events_read = 0

        await act(ledger, say("mine"), command_id=str(uuid.uuid4()))
        of_our_own = log.events_read
        await act(elsewhere, say("theirs"))
        await act(ledger, say("again"))
        after_another_process = log.events_read
        await ledger.state(RUN)
    await log.close()

    assert of_our_own == 0
    assert after_another_process == 1
    assert log.events_read == 1


async def test_who_asks_for_unknown_runs_does_not_push_known_ones_out(tmp_path: Path) -> None:
    log = await CountingLog.made(tmp_path)
    async with opened(tmp_path):
        ledger = Ledger(log)
        await ledger.state(RUN)
        for number in range(1_100):
            with suppress(RunfoldError):
                await ledger.state(f"r_unknown_{number}")
        log.events_read = 0
        await ledger.state(RUN)
    await log.close()

    assert log.events_read == 0


async def test_an_error_that_nobody_foresaw_is_the_callers_and_the_next_is_served(tmp_path: Path) -> None:
    is_broken = False

    def now_us() -> int:
        if is_broken:
            raise ZeroDivisionError
        return 1

    async with opened(tmp_path):
        log = await SqliteLog.open(tmp_path)
        ledger = Ledger(log, now_us=now_us)
        await act(ledger, say("first"))
        is_broken = True
        async with asyncio.timeout(30):
            with pytest.raises(ZeroDivisionError):
                await act(ledger, say("unlucky"))
            is_broken = False
            await act(ledger, say("next"))
        await log.close()

    assert messages(tmp_path) == ["first", "next"]


class CountingLog(SqliteLog):
    """The real log, which counts what is asked of it."""

    appends = 0
    events_read = 0

    @classmethod
    async def made(cls, data: Path) -> "CountingLog":
        log = await cls.open(data)
        assert isinstance(log, cls)
        return log

    def offer(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> bool:
        is_taken = super().offer(stream, events, expected=expected, done=done)
        self.appends += is_taken
        return is_taken

    async def read(
        self, *, after: int = 0, stream: str | None = None, upto: int | None = None
    ) -> AsyncGenerator[Page, None]:
        async for page in super().read(after=after, stream=stream, upto=upto):
            self.events_read += len(page.events)
            yield page


class OvertakenLog(SqliteLog):
    """The real log, before each of whose appends a rival's ledger writes to the same run."""

    conflicts = 0
    conflicts_max = 1_000
    rival: Ledger | None = None

    @classmethod
    async def made(cls, data: Path) -> "OvertakenLog":
        log = await cls.open(data)
        assert isinstance(log, cls)
        return log

    async def submit(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> None:
        if self.rival is not None and self.conflicts < self.conflicts_max:
            self.conflicts += 1
            await act(self.rival, say("rival"))
        assert super().offer(stream, events, expected=expected, done=done)

    def offer(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> bool:
        # Whoever is overtaken is so while he waits for room.
        return self.rival is None and super().offer(stream, events, expected=expected, done=done)


class HeldLog(SqliteLog):
    """The real log, whose appends wait at a gate."""

    @classmethod
    async def made(cls, data: Path) -> "HeldLog":
        log = await cls.open(data)
        assert isinstance(log, cls)
        log.is_open, log.held = asyncio.Event(), asyncio.Event()
        log.is_open.set()
        return log

    is_open: asyncio.Event
    held: asyncio.Event
    sending: asyncio.Task[None]

    def offer(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> bool:
        return self.is_open.is_set() and super().offer(stream, events, expected=expected, done=done)

    async def submit(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> None:
        if self.is_open.is_set():
            await super().submit(stream, events, expected=expected, done=done)
        else:
            self.sending = asyncio.create_task(self._send(stream, events, expected, done))
            self.held.set()

    async def _send(self, stream: str, events: Sequence[NewEvent], expected: int, done: Done) -> None:
        await self.is_open.wait()
        await super().submit(stream, events, expected=expected, done=done)

"""What a log promises to who appends: all or nothing, once, in order, and to each caller alone."""

import asyncio
import random
import uuid
from collections.abc import Sequence

import pytest

from eventstore.contract import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX, Appended, EventLog
from runfold.envelope import NewEvent
from runfold.errors import BadRequest, Conflict, EventIdConflict, TooLarge
from tests.contract.backend import Backend
from tests.contract.events import START_US, all_events, new_event, numbered


async def test_t1_a_stream_that_exists_is_not_opened_a_second_time(log: EventLog, other: EventLog) -> None:
    opened = await log.append("r_a", [new_event()], expected=0)

    with pytest.raises(Conflict) as refused:
        await other.append("r_a", [new_event()], expected=0)

    assert refused.value.actual == opened.last
    assert len(await all_events(log)) == 1


@pytest.mark.parametrize("off", [-1, 1])
async def test_t3_an_expected_position_that_is_off_by_one_is_refused_and_the_error_says_the_right_one(
    log: EventLog, other: EventLog, off: int
) -> None:
    last = (await log.append("r_a", numbered(0, 3), expected=0)).last

    with pytest.raises(Conflict) as refused:
        await other.append("r_a", [new_event()], expected=last + off)
    added = await other.append("r_a", [new_event()], expected=refused.value.actual)

    assert refused.value.actual == last
    assert added.version == 4


async def test_t4_of_twenty_who_expect_the_same_position_one_wins(log: EventLog, other: EventLog) -> None:
    outcomes = await asyncio.gather(
        *((log, other)[number % 2].append("r_a", [new_event()], expected=0) for number in range(20)),
        return_exceptions=True,
    )

    assert len([outcome for outcome in outcomes if isinstance(outcome, Appended)]) == 1
    assert len([outcome for outcome in outcomes if isinstance(outcome, Conflict)]) == 19
    assert len(await all_events(log)) == 1


async def test_of_twenty_who_go_on_with_one_run_at_once_one_wins_and_the_others_hear_where_it_is(log: EventLog) -> None:
    last = (await log.append("r_a", [new_event()], expected=0)).last

    outcomes = await asyncio.gather(
        *(log.append("r_a", [new_event()], expected=last) for _ in range(20)), return_exceptions=True
    )

    won = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert (len(won), len(lost)) == (1, 19)
    assert {error.actual for error in lost} == {won[0].last}
    assert [event.version for event in await all_events(log)] == [1, 2]


async def test_t5_nothing_to_append_is_an_error_and_takes_no_position(log: EventLog) -> None:
    with pytest.raises(BadRequest, match="nothing to append"):
        await log.append("r_a", [], expected=0)

    assert (await log.bounds()).last == 0


async def test_t6_the_events_of_one_append_stand_together(log: EventLog, other: EventLog) -> None:
    async def write(writes_to: EventLog, stream: str) -> None:
        last = 0
        for number in range(0, 60, 3):
            last = (await writes_to.append(stream, numbered(number, 3), expected=last)).last

    await asyncio.gather(*(write((log, other)[number % 2], f"r_{number}") for number in range(10)))

    events = await all_events(log)
    assert len(events) == 600
    for first in range(0, 600, 3):
        assert len({event.run_id for event in events[first : first + 3]}) == 1
    assert [event.position for event in events] == sorted({event.position for event in events})


@pytest.mark.parametrize("expected", ["a new stream", "as the first time", "the event itself", "beyond the head"])
async def test_t7_the_same_events_again_get_their_first_answer_whatever_is_expected(
    log: EventLog, other: EventLog, expected: str
) -> None:
    before = await log.append("r_a", [new_event()], expected=0)
    events = numbered(0, 3)
    first = await log.append("r_a", events, expected=before.last)
    head = (await log.append("r_a", [new_event()], expected=first.last)).last
    position = {"a new stream": 0, "as the first time": before.last, "the event itself": first.last}.get(expected, 99)

    again = await other.append("r_a", events, expected=position)

    assert again.duplicate
    assert (again.first, again.last, again.version, again.events) == (
        *(first.first, first.last, first.version, first.events),
    )
    assert (await log.bounds()).last == head


async def test_t8_one_id_in_two_streams_is_two_events_and_each_is_known_again(log: EventLog, other: EventLog) -> None:
    event = new_event()

    first = await log.append("r_a", [event], expected=0)
    second = await other.append("r_b", [event], expected=0)
    again = await log.append("r_b", [event], expected=0)

    assert not second.duplicate
    assert second.last > first.last
    assert again.duplicate
    assert again.last == second.last


async def test_t9_a_known_event_with_the_right_new_position_is_not_appended_again(
    log: EventLog, other: EventLog
) -> None:
    event = new_event()
    first = await log.append("r_a", [event], expected=0)

    again = await other.append("r_a", [event], expected=first.last)

    assert again.duplicate
    assert again.last == first.last
    assert (await log.bounds()).last == first.last


A, B, C, NEW = (new_event(b'{"n":"%s"}' % name, identity=str(uuid.uuid4())) for name in (b"a", b"b", b"c", b"new"))
OTHER_CONTENT = new_event(b'{"n":"other"}', identity=A.id)
OTHER_TYPE = new_event(A.data, identity=A.id, type_name="message")
AGAIN_BUT_CHANGED: dict[str, list[NewEvent]] = {
    "reordered": [B, A],
    "with a gap": [A, C],
    "partly new at the end": [C, NEW],
    "partly new at the start": [NEW, A],
    "partly new in the middle": [A, NEW, B],
    "other content": [OTHER_CONTENT],
    "other content of the first": [OTHER_CONTENT, B],
    "another type": [OTHER_TYPE],
}


@pytest.mark.parametrize("sent", AGAIN_BUT_CHANGED.values(), ids=AGAIN_BUT_CHANGED)
async def test_t10_known_ids_in_another_order_number_or_content_are_refused_by_name(
    log: EventLog, other: EventLog, sent: list[NewEvent]
) -> None:
    last = (await log.append("r_a", [A, B, C], expected=0)).last

    for expected in (0, last):
        with pytest.raises(EventIdConflict, match="of `r_a` is known"):
            await other.append("r_a", sent, expected=expected)

    assert [event.id for event in await all_events(log)] == [A.id, B.id, C.id]


@pytest.mark.parametrize("part", [[A], [B, C], [A, B, C]], ids=["the first", "the last two", "all"])
async def test_t10_a_part_of_an_append_in_its_order_is_known(
    log: EventLog, other: EventLog, part: list[NewEvent]
) -> None:
    await log.append("r_a", [A, B, C], expected=0)

    again = await other.append("r_a", part, expected=0)

    assert again.duplicate
    assert [event.id for event in again.events] == [event.id for event in part]


async def test_t11_an_id_twice_in_one_append_is_refused_and_its_neighbours_are_stored(log: EventLog) -> None:
    twice = new_event()
    stored = new_event()

    outcomes = await asyncio.gather(
        log.append("r_a", [stored], expected=0),
        log.append("r_b", [twice, twice], expected=0),
        log.append("r_c", [new_event()], expected=5),
        log.append("r_a", [stored, new_event()], expected=0),
        log.append("r_d", [new_event()], expected=0),
        return_exceptions=True,
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Appended, BadRequest, Conflict, EventIdConflict, Appended]
    assert [event.run_id for event in await all_events(log)] == ["r_a", "r_d"]


async def test_a_retry_beside_its_original_is_known_too(log: EventLog) -> None:
    events = numbered(0, 2)

    answers = await asyncio.gather(*(log.append("r_a", events, expected=0) for _ in range(5)))

    assert sorted(answer.duplicate for answer in answers) == [False, True, True, True, True]
    assert {answer.events for answer in answers} == {answers[0].events}
    assert len(await all_events(log)) == 2


async def test_a_retry_behind_an_append_to_its_run_is_known_and_its_neighbours_are_stored(log: EventLog) -> None:
    old, fresh, beside = new_event(), new_event(), new_event()
    first = (await log.append("r_a", [old], expected=0)).last

    added, again, other, behind = await asyncio.gather(
        log.append("r_a", [fresh], expected=first),
        log.append("r_a", [old], expected=first),
        log.append("r_b", [beside], expected=0),
        log.append("r_a", [new_event()], expected=first),
        return_exceptions=True,
    )

    assert isinstance(added, Appended)
    assert isinstance(again, Appended)
    assert isinstance(other, Appended)
    assert (again.first, again.duplicate) == (first, True)
    assert isinstance(behind, Conflict)
    assert [event.id for event in await all_events(log, stream="r_a")] == [old.id, fresh.id]
    assert [event.id for event in await all_events(log, stream="r_b")] == [beside.id]


async def test_t12_a_hundred_retries_take_no_position(log: EventLog, other: EventLog) -> None:
    events = numbered(0, 2)
    first = await log.append("r_a", events, expected=0)

    for _ in range(50):
        await asyncio.gather(*(each.append("r_a", events, expected=0) for each in (log, other)))

    assert (await log.bounds()).last == first.last
    assert len(await all_events(log)) == 2


async def test_t13_a_refused_append_takes_no_position(log: EventLog, other: EventLog) -> None:
    last = (await log.append("r_a", [new_event()], expected=0)).last
    with pytest.raises(Conflict):
        await other.append("r_a", numbered(0, 5), expected=0)

    assert (await log.bounds()).last == last


def whole(size: int) -> bytes:
    return b'{"t":"' + b"x" * (size - 8) + b'"}'


SIZES: dict[str, tuple[Sequence[bytes], bool]] = {
    "the most events": ([b"{}"] * APPEND_EVENTS_MAX, True),
    "one event too many": ([b"{}"] * (APPEND_EVENTS_MAX + 1), False),
    "the longest event": ([whole(EVENT_BYTES_MAX)], True),
    "a byte too long": ([whole(EVENT_BYTES_MAX + 1)], False),
    "the most bytes": ([whole(EVENT_BYTES_MAX)] * (APPEND_BYTES_MAX // EVENT_BYTES_MAX), True),
    "too many bytes": ([whole(EVENT_BYTES_MAX)] * (APPEND_BYTES_MAX // EVENT_BYTES_MAX) + [b"{}"], False),
    "two mebibytes": ([whole(2 * 1024 * 1024)], False),
}


@pytest.mark.parametrize(("sizes", "fits"), SIZES.values(), ids=SIZES)
async def test_t19_the_largest_append_is_stored_and_a_larger_one_refused_whole(
    log: EventLog, other: EventLog, sizes: Sequence[bytes], fits: bool
) -> None:
    events = [new_event(data) for data in sizes]

    if fits:
        await other.append("r_a", events, expected=0)
    else:
        with pytest.raises(TooLarge, match="r_a"):
            await other.append("r_a", events, expected=0)

    assert [event.data for event in await all_events(log)] == (list(sizes) if fits else [])


@pytest.mark.parametrize(
    "stream", ["a/b%", "a.b.*.>", "x\0y", "ü\u202e😀", " ", "'; DROP TABLE events", "\n", "A" * 512]
)
async def test_t19_any_text_names_a_stream_and_its_events_come_back_byte_for_byte(
    log: EventLog, other: EventLog, stream: str
) -> None:
    data = '{"t":"\\u0000\u2028é\\r\\n"}'.encode()
    await log.append(stream, [new_event(data)], expected=0)
    await log.append(stream + "_" if len(stream) < 512 else "B", [new_event()], expected=0)

    events = await all_events(other, stream=stream)

    assert [(event.run_id, event.data) for event in events] == [(stream, data)]


@pytest.mark.parametrize("stream", ["", "\ud800", "A" * 513])
async def test_t19_a_name_that_cannot_be_stored_is_refused(log: EventLog, stream: str) -> None:
    with pytest.raises((BadRequest, TooLarge), match="the stream of an event"):
        await log.append(stream, [new_event()], expected=0)


async def test_t20_a_clock_that_steps_back_an_hour_changes_no_order(backend: Backend, log: EventLog) -> None:
    for step in (0, -3_600_000_000, 1, -1, 5):
        backend.now_us = START_US + step
        await log.append(f"r_{step}", [new_event()], expected=0)

    events = await all_events(log)
    times = [event.recorded_at_us for event in events]
    assert times == [START_US, START_US, START_US + 1, START_US + 1, START_US + 5]


async def test_t21_callers_cancelled_at_a_hundred_points_leave_their_append_whole_or_absent(
    log: EventLog, other: EventLog
) -> None:
    chance = random.Random(21)
    acknowledged: dict[str, Appended] = {}

    async def caller(number: int, events: list[NewEvent]) -> None:
        acknowledged[f"r_{number}"] = await log.append(f"r_{number}", events, expected=0)

    appends = [numbered(number * 10, chance.randrange(1, 5)) for number in range(100)]
    for number, events in enumerate(appends):
        task = asyncio.create_task(caller(number, events))
        # As many turns of the event loop as chance says: before, in and after every await of the append.
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    stored: dict[str, list[str]] = {}
    await log.append("r_end", [new_event()], expected=0)
    for event in await all_events(other):
        stored.setdefault(event.run_id, []).append(event.id)
    assert set(acknowledged) <= set(stored)
    for number, events in enumerate(appends):
        assert stored.get(f"r_{number}", []) in ([], [event.id for event in events])
        again = await other.append(f"r_{number}", events, expected=0)
        assert again.duplicate == (f"r_{number}" in stored)
    assert len(await all_events(other)) == sum(map(len, appends)) + 1


async def test_t22_one_callers_refusal_takes_nothing_from_another(log: EventLog, other: EventLog) -> None:
    async def good(each: EventLog, name: str) -> list[Appended]:
        answers, last = list[Appended](), 0
        for _ in range(20):
            answers.append(await each.append(name, [new_event()], expected=last))
            last = answers[-1].last
        return answers

    async def bad(each: EventLog) -> None:
        for _ in range(20):
            with pytest.raises(Conflict):
                await each.append("r_bad", [new_event()], expected=7)

    acknowledged, _, others, _ = await asyncio.gather(good(log, "r_a"), bad(log), good(other, "r_b"), bad(other))

    stored = await all_events(log)
    assert sorted(answer.last for answer in acknowledged + others) == [event.position for event in stored]


async def test_t23_who_reads_then_appends_meets_only_conflicts(log: EventLog, other: EventLog) -> None:
    async def count(each: EventLog) -> None:
        done = 0
        while done < 25:
            last = await each.last("r_a")
            try:
                await each.append("r_a", [new_event()], expected=0 if last is None else last.position)
                done += 1
            except Conflict:
                pass

    await asyncio.gather(*(count(each) for each in (log, other, log, other)))

    assert [event.version for event in await all_events(log)] == list(range(1, 101))


async def test_what_is_appended_is_found_by_id_and_by_command(log: EventLog, other: EventLog) -> None:
    command = str(uuid.uuid4())
    made = NewEvent(id=str(uuid.uuid4()), type="a", data=b"{}", at_us=1, tenant="t", actor="u", command=command)
    plain = new_event()
    await log.append("r_a", [plain, made], expected=0)
    await log.append("r_b", [plain], expected=0)

    by_id = await other.find("r_a", ids=[plain.id, str(uuid.uuid4())])
    by_command = await other.find("r_a", commands=[command])
    by_both = await other.find("r_a", ids=[plain.id], commands=[command])

    assert [event.id for event in by_id] == [plain.id]
    assert [event.id for event in by_command] == [made.id]
    assert [event.id for event in by_both] == [plain.id, made.id]
    assert await other.find("r_c", ids=[plain.id]) == ()


async def test_a_log_reopened_is_the_same_log(backend: Backend, log: EventLog) -> None:
    events = numbered(0, 3)
    first = await log.append("r_a", events, expected=0)
    before = await log.bounds()
    await log.close()

    reopened = await backend.open()

    assert await reopened.bounds() == before
    assert (await reopened.append("r_a", events, expected=0)).events == first.events
    assert await reopened.last("r_a") == first.events[-1]
    assert await reopened.last("r_b") is None


async def test_t67_a_log_that_closes_answers_everyone_who_waits(backend: Backend, log: EventLog) -> None:
    appends = [asyncio.create_task(log.append(f"r_{number}", [new_event()], expected=0)) for number in range(200)]
    await asyncio.sleep(0)

    await log.close()

    answers = await asyncio.gather(*appends)
    events = await all_events(await backend.open())
    assert [answer.last for answer in answers] == [event.position for event in events]

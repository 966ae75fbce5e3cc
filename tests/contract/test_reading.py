"""What a log promises to who reads and follows: everything once, in order, and never further than was looked."""

import asyncio
import random
from contextlib import aclosing

import pytest

from eventstore.contract import PAGE_EVENTS, EventLog
from runfold.errors import Diverged, Trimmed, Unavailable
from tests.contract.backend import Backend
from tests.contract.events import all_events, new_event, numbered, tailed

WITHIN_SECONDS = 30  # Far more than a wake-up takes on a loaded machine, and far less than for ever.


@pytest.mark.slow
async def test_t30_who_follows_while_others_write_and_is_cut_at_random_sees_every_event_once(
    log: EventLog, other: EventLog
) -> None:
    chance = random.Random(30)

    async def write(each: EventLog, stream: str) -> None:
        last = 0
        for number in range(0, 600, 3):
            last = (await each.append(stream, numbered(number, 3), expected=last)).last
            for _ in range(chance.randrange(10)):
                await asyncio.sleep(0)

    async def follow(each: EventLog) -> list[int]:
        seen: list[int] = []
        cursor = 0
        while len(seen) < 1200:
            async with aclosing(each.tail(after=cursor)) as pages:
                for _ in range(chance.randrange(1, 5)):
                    page = await anext(pages)
                    seen += [event.position for event in page.events]
                    cursor = page.scanned_to
                    if len(seen) == 1200:
                        break
        return seen

    async with asyncio.timeout(WITHIN_SECONDS):
        followed = await asyncio.gather(follow(log), follow(other), write(log, "r_a"), write(other, "r_b"))

    stored = [event.position for event in await all_events(log)]
    assert followed[0] == stored
    assert followed[1] == stored


async def test_t32_wake_ups_that_are_many_or_for_others_change_nothing(log: EventLog, other: EventLog) -> None:
    followers = [asyncio.create_task(tailed(each, 10, stream="r_a")) for each in (log, other) for _ in range(5)]
    last = other_last = 0
    for number in range(10):
        other_last = (await other.append("r_b", numbered(number, 1), expected=other_last)).last
        last = (await log.append("r_a", numbered(number, 1), expected=last)).last

    async with asyncio.timeout(WITHIN_SECONDS):
        seen = await asyncio.gather(*followers)

    stored = await all_events(log, stream="r_a")
    assert all(events == stored for events in seen)


async def test_t33_a_cursor_moves_only_past_what_was_delivered_or_belongs_to_others(
    log: EventLog, other: EventLog
) -> None:
    last = {"r_a": 0, "r_b": 0}
    delivered: list[int] = []
    cursors: list[int] = []
    pages = log.tail(after=0, stream="r_a")

    async with asyncio.timeout(WITHIN_SECONDS):
        for number in range(30):
            name = "r_b" if number % 3 else "r_a"
            last[name] = (await other.append(name, numbered(number, 1), expected=last[name])).last
            page = await anext(pages)
            delivered += [event.position for event in page.events]
            cursors.append(page.scanned_to)
            mine = [event.position for event in await all_events(log, stream="r_a")]
            assert delivered == [position for position in mine if position <= page.scanned_to]
    await pages.aclose()

    assert cursors == sorted(set(cursors))
    assert cursors[-1] == (await log.bounds()).last


async def test_t34_a_stream_with_nothing_new_is_scanned_to_the_head_at_once(log: EventLog, other: EventLog) -> None:
    first = (await log.append("r_a", [new_event()], expected=0)).last
    last = 0
    for _ in range(4):
        last = (await log.append("r_b", numbered(0, PAGE_EVENTS), expected=last)).last

    pages = [page async for page in other.read(after=first, stream="r_a")]
    async with aclosing(other.tail(after=first, stream="r_a")) as followed:
        page = await anext(followed)

    assert [(page.events, page.scanned_to) for page in pages] == [((), last)]
    assert (page.events, page.scanned_to) == ((), last)


async def test_t35_at_the_head_there_is_no_page_and_no_cursor_beyond_it(log: EventLog, other: EventLog) -> None:
    head = (await log.append("r_a", numbered(0, 3), expected=0)).last

    assert [page async for page in other.read(after=head)] == []
    assert [page async for page in other.read(after=head, stream="r_a")] == []
    waiting = asyncio.create_task(tailed(other, 1, after=head))
    added = await log.append("r_a", [new_event()], expected=head)
    async with asyncio.timeout(WITHIN_SECONDS):
        assert await waiting == list(added.events)


async def test_t36_a_slow_reader_gets_everything_in_pages_of_bounded_size(log: EventLog, other: EventLog) -> None:
    last = (await log.append("r_a", numbered(0, 1), expected=0)).last
    sizes, seen = list[int](), list[int]()
    async with aclosing(other.tail(after=0)) as pages:
        first = await anext(pages)
        for number in range(4):
            last = (await log.append("r_a", numbered(number * 500, 500), expected=last)).last
        sizes.append(len(first.events))
        seen += [event.position for event in first.events]
        while seen[-1] < last:
            page = await anext(pages)
            sizes.append(len(page.events))
            seen += [event.position for event in page.events]

    assert max(sizes) <= PAGE_EVENTS
    assert seen == [event.position for event in await all_events(log)]


async def test_t38_reading_below_what_is_kept_is_an_error_that_says_where_to_go_on(
    backend: Backend, log: EventLog, other: EventLog
) -> None:
    positions = [event.position for event in (await log.append("r_a", numbered(0, 10), expected=0)).events]
    await backend.trim(positions[3])

    for each in (log, other):
        for pages in (each.read(after=0), each.read(after=positions[2]), each.tail(after=positions[0])):
            with pytest.raises(Trimmed) as refused:
                await anext(pages)
            assert refused.value.earliest == positions[4]
        kept = await all_events(each, after=refused.value.earliest - 1)
        assert [event.position for event in kept] == positions[4:]
        assert (await each.bounds()).first == positions[4]


async def test_t40_a_cursor_beyond_the_head_is_an_error(log: EventLog, other: EventLog) -> None:
    head = (await log.append("r_a", numbered(0, 3), expected=0)).last

    for each in (log, other):
        for pages in (each.read(after=head + 1), each.tail(after=head + 1), each.read(after=head + 9, stream="r_a")):
            with pytest.raises(Diverged):
                await anext(pages)


async def test_t41_a_reader_overtaken_by_a_trim_gets_an_error_and_no_silent_jump(
    backend: Backend, log: EventLog, other: EventLog
) -> None:
    last = 0
    for number in range(3):
        last = (await log.append("r_a", numbered(number * 500, 500), expected=last)).last
    async with aclosing(other.read(after=0)) as pages:
        page = await anext(pages)
        await backend.trim(page.scanned_to + 100)

        with pytest.raises(Trimmed):
            await anext(pages)


async def test_what_is_read_up_to_a_position_ends_there(log: EventLog, other: EventLog) -> None:
    positions = [event.position for event in (await log.append("r_a", numbered(0, 20), expected=0)).events]
    await log.append("r_b", numbered(0, 1), expected=0)

    for stream in (None, "r_a"):
        pages = [page async for page in other.read(after=positions[2], stream=stream, upto=positions[9])]
        assert [event.position for page in pages for event in page.events] == positions[3:10]
        assert pages[-1].scanned_to == positions[9]


async def test_an_event_is_found_by_its_number_in_its_stream(log: EventLog, other: EventLog) -> None:
    first = await log.append("r_a", numbered(0, 3), expected=0)
    await log.append("r_b", numbered(0, 5), expected=0)
    second = await log.append("r_a", numbered(3, 2), expected=first.last)
    positions = [event.position for event in (*first.events, *second.events)]

    assert [await other.position_of("r_a", version) for version in range(1, 6)] == positions
    assert [await other.position_of(*none) for none in (("r_a", 6), ("r_a", 0), ("r_c", 1))] == [None] * 3


async def test_who_waits_at_the_head_of_an_empty_log_is_woken_by_the_first_event(
    log: EventLog, other: EventLog
) -> None:
    waiting = [asyncio.create_task(tailed(log, 1)), asyncio.create_task(tailed(log, 1, stream="r_a"))]
    for _ in range(5):
        await asyncio.sleep(0)

    added = await other.append("r_a", [new_event()], expected=0)

    async with asyncio.timeout(WITHIN_SECONDS):
        assert await asyncio.gather(*waiting) == [list(added.events)] * 2


async def test_an_answer_is_readable_by_everybody_as_soon_as_it_is_given(log: EventLog, other: EventLog) -> None:
    last = 0
    for number in range(50):
        writes, reads = (log, other) if number % 2 else (other, log)
        last = (await writes.append("r_a", [new_event()], expected=last)).last
        recorded = await reads.last("r_a")
        assert recorded is not None
        assert recorded.position == last


async def test_a_follower_of_a_log_that_closes_is_told(log: EventLog) -> None:
    waiting = asyncio.create_task(tailed(log, 1))
    for _ in range(5):
        await asyncio.sleep(0)

    await log.close()

    async with asyncio.timeout(WITHIN_SECONDS):
        with pytest.raises(Unavailable, match="the log is closed"):
            await waiting

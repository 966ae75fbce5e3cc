"""The timeline of a run: what was at work in it from when to when, in whole, in part, and what changed."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.sqlite import SqliteLog
from projections.engine.views import Views
from projections.spans import BUCKETS, overview, timeline
from runfold.envelope import moment_us
from runfold.events import Event, LimitExceeded, LimitWarned, RunQueued, RunStarted, ToolCalled, ToolReturned
from runfold.state import RESTING
from tests.histories import all_events, new_event, write_histories


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(tmp_path)
    yield log
    await log.close()


async def test_every_tool_call_is_a_span_that_ends_when_it_returns(log: SqliteLog, tmp_path: Path) -> None:
    await write_histories(log, random.Random(6), appends=150, runs=3)
    expected: dict[int, bool] = {}
    opened: dict[str, int] = {}
    for recorded in all_events(tmp_path):
        event = recorded.event()
        if recorded.run_id != "r_000":
            continue
        if isinstance(event, ToolCalled):
            if event.call_id in opened:
                expected[opened[event.call_id]] = True
            opened[event.call_id] = recorded.position
            expected[recorded.position] = False
        elif isinstance(event, ToolReturned) and event.call_id in opened:
            expected[opened.pop(event.call_id)] = True
        elif recorded.type in {f"run_{status}" for status in RESTING}:
            expected.update(dict.fromkeys(opened.values(), True))
            opened.clear()
    views = Views.open(tmp_path, page_events=13)
    views.refresh()

    found, after = dict[int, bool](), 0
    while True:
        page = timeline(views.connection, "r_000", tenant="default", kinds=("tool",), after=after, limit=5)
        found |= {span.position: span.ended_at is not None for span in page.items}
        if page.next_cursor is None:
            break
        after = int(page.next_cursor)

    assert found == expected
    assert timeline(views.connection, "r_000", tenant="other").items == []
    views.close()


async def test_spans_of_a_while_are_those_that_touch_it(log: SqliteLog, tmp_path: Path) -> None:
    await write_histories(log, random.Random(12), appends=100, runs=1)
    views = Views.open(tmp_path)
    views.refresh()
    everything = timeline(views.connection, "r_000", tenant="default").items
    starts = sorted(moment_us(span.started_at) for span in everything)
    since_us, until_us = starts[len(starts) // 3], starts[len(starts) // 2]

    found = timeline(views.connection, "r_000", tenant="default", since_us=since_us, until_us=until_us).items

    assert found == [
        span
        for span in everything
        if moment_us(span.started_at) <= until_us
        and (span.ended_at is None or max(moment_us(span.ended_at), moment_us(span.started_at)) >= since_us)
    ]
    assert 0 < len(found) < len(everything)
    views.close()


async def test_what_changed_on_a_timeline_is_told_alone(log: SqliteLog, tmp_path: Path) -> None:
    views, chance = Views.open(tmp_path), random.Random(14)

    def asked(changed_after: int = 0) -> dict[int, Any]:
        found = timeline(views.connection, "r_000", tenant="default", changed_after=changed_after)
        return {span.position: span for span in found.items}

    await write_histories(log, chance, appends=40, runs=1)
    views.refresh()
    before, position = asked(), (await log.bounds()).last
    await write_histories(log, chance, appends=5, runs=1)
    views.refresh()

    changed = asked(position)

    assert before | changed == asked()
    assert changed == {at: span for at, span in asked().items() if before.get(at) != span}
    views.close()


async def test_an_overview_counts_what_was_at_work_in_each_part_of_the_run(log: SqliteLog, tmp_path: Path) -> None:
    await write_histories(log, random.Random(13), appends=100, runs=1)
    views = Views.open(tmp_path)
    views.refresh()

    found = overview(views.connection, "r_000", tenant="default")

    spans = timeline(views.connection, "r_000", tenant="default").items
    assert found.started_at is not None
    first_us = moment_us(found.started_at)
    for lane in found.lanes:
        busy, bad = [0] * BUCKETS, [0] * BUCKETS
        for span in (it for it in spans if it.kind == lane.kind):
            start = (moment_us(span.started_at) - first_us) // found.bucket_us
            end = BUCKETS - 1 if span.ended_at is None else (moment_us(span.ended_at) - first_us) // found.bucket_us
            for bucket in range(start, max(start, end) + 1):
                busy[bucket] += 1
            if span.status in ("failed", "error", "rejected", "denied", "expired", "exceeded"):
                bad[max(start, end)] += 1
        assert (lane.busy, lane.bad) == (busy, bad)
    assert sum(lane.spans for lane in found.lanes) == found.spans == len(spans)
    views.close()


async def test_a_limit_that_was_neared_or_broken_is_a_moment_on_the_timeline(log: SqliteLog, tmp_path: Path) -> None:
    hits = (LimitWarned(limit="cost", threshold=2, actual=1.6), LimitExceeded(limit="cost", threshold=2, actual=2.25))
    happened: tuple[Event, ...] = (RunQueued(title="a"), RunStarted(), *hits)
    events = [new_event(event, at_us=number, tenant="default") for number, event in enumerate(happened, 1)]
    await log.append("r_1", events, expected=0)
    views = Views.open(tmp_path)
    views.refresh()

    found = timeline(views.connection, "r_1", tenant="default", kinds=("limit",)).items

    assert [(span.name, span.status, span.duration_ms) for span in found] == [
        ("cost 1.6 of 2", "warned", 0),
        ("cost 2.25 of 2", "exceeded", 0),
    ]
    views.close()

"""No event can forge a frame, and the frames that SQLite's rows become at once are those of the plain words."""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.frames import Form, Frames
from eventstore.contract import EventLog
from eventstore.framing import Framed, Framing, event_frame
from eventstore.splicing import FIRST_ROWS, FRAMES_BYTES
from eventstore.sqlite import SqliteLog
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded, envelope_json
from runfold.events import EVENT_TYPES, EventClass

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = TEXT.filter(lambda text: text != "" and len(text.encode()) < 100)
HOSTILE = st.sampled_from(
    ['"', "\\", "\x00", "\x1f\x7f", "a:b:c", ":", "é\u2028\U0001f600", "\r\ndata: x\n\n", "%s%d", "{}"]
)
UUIDS = st.uuids().map(str)
NEW_EVENT = st.builds(
    NewEvent,
    id=UUIDS,
    type=st.sampled_from([*list(EVENT_TYPES)[::4], "unknown", "X1", "9", "ünknown"]) | NAME | HOSTILE,
    data=st.sampled_from([b"{}", b'{"a":1}', b'{\n"a":\r\n"\\n"}', '{"ä":"%s"}'.encode()])
    | st.binary(max_size=40)
    | st.integers(1_000, 60_000).map(lambda size: b'"' + b"x" * size + b'"'),
    at_us=st.integers(0, 253_402_300_799_999_999),
    tenant=st.just("default") | NAME | HOSTILE,
    actor=st.just("user:a") | TEXT | HOSTILE,
    schema=st.integers(0, 2**31 - 1),
    cause=st.none() | UUIDS,
    command=st.none() | UUIDS,
    sent=st.none() | st.binary(min_size=32, max_size=32),
    correlation=TEXT | HOSTILE,
)
FRAMING = st.builds(
    Framing,
    tenant=st.none() | st.just("default"),
    types=st.lists(st.sampled_from([*list(EVENT_TYPES)[::4], "unknown"]), max_size=4).map(tuple),
    classes=st.lists(st.sampled_from(get_args(EventClass)), max_size=2, unique=True).map(tuple),
    named=st.booleans(),
    marks=st.just(("run_completed", "unknown")),
)


async def _until(pages: AsyncIterator[Framed], head: int) -> list[Framed]:
    found: list[Framed] = []
    async for page in pages:
        found.append(page)
        if page.scanned_to >= head:
            break
    return found


async def _read(log: EventLog, framing: Framing, stream: str | None, *, plain: bool) -> list[Framed]:
    head = (await log.bounds()).last
    # The plain words are what a log says that has no quicker ones of its own.
    frames = EventLog.frames if plain else type(log).frames
    async with aclosing(frames(log, after=0, framing=framing, stream=stream)) as pages:
        return await _until(pages, head)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(NEW_EVENT, min_size=1, max_size=12), framings=st.lists(FRAMING, min_size=1, max_size=4))
async def test_quick_frames_are_byte_for_byte_the_plain_ones(events: list[NewEvent], framings: list[Framing]) -> None:
    with TemporaryDirectory() as folder:
        log = await SqliteLog.open(Path(folder))
        try:
            streams = ["r_a", 'r_"\x00ü', SYSTEM_STREAM]
            last = dict.fromkeys(streams, 0)
            for number, event in enumerate(events):
                appended_to = streams[number % 3]
                last[appended_to] = (await log.append(appended_to, [event], expected=last[appended_to])).last
            for framing in [Framing(), *framings]:
                for stream in (None, "r_a", 'r_"\x00ü'):
                    quick = await _read(log, framing, stream, plain=False)
                    plain = await _read(log, framing, stream, plain=True)
                    assert b"".join(page.content for page in quick) == b"".join(page.content for page in plain)
                    assert max(page.version for page in quick) == max(page.version for page in plain)
                    assert any(page.is_marked for page in quick) == any(page.is_marked for page in plain)
        finally:
            await log.close()


def _events(count: int, data: bytes = b"{}") -> list[NewEvent]:
    return [
        NewEvent(id=str(uuid.uuid4()), type="log_line", data=data, at_us=0, tenant="default", actor="user:a")
        for _ in range(count)
    ]


async def test_events_of_one_tick_are_one_write_and_a_page_of_many_stays_small(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    try:
        await log.append("r_a", _events(50), expected=0)
        together = await _read(log, Framing(), "r_a", plain=False)
        await log.append("r_b", _events(300) + _events(7, b'"' + b"x" * 60_000 + b'"'), expected=0)
        many = await _read(log, Framing(), "r_b", plain=False)
    finally:
        await log.close()

    assert len(together) == 1
    assert together[0].content.count(b"\n\n") == 50
    assert sum(page.content.count(b"\n\n") for page in many) == 307
    assert max(len(page.content) for page in many) <= FRAMES_BYTES


async def test_who_begins_is_given_a_short_page_before_the_long_ones(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    try:
        await log.append("r_a", _events(300), expected=0)
        first = await log.framed(after=0, framing=Framing(), stream="r_a", begins=True)
        following = await log.framed(after=first.scanned_to, framing=Framing(), stream="r_a")
        all_of_it = b"".join(page.content for page in await _read(log, Framing(), "r_a", plain=False))
    finally:
        await log.close()

    assert first.content.count(b"\n\n") == FIRST_ROWS < following.content.count(b"\n\n")
    assert all_of_it.startswith(first.content + following.content)


_EVENT = Recorded(
    position=1, run_id="r_a", version=1, id="i", type="message", schema=1, at_us=0, recorded_at_us=0, tenant="default",
    actor="user:a", cause=None, command=None, sent=None, correlation="", hash=bytes(32), data=b"{}",
)  # fmt: skip


def test_stored_line_ends_between_json_tokens_and_strange_types_stay_inside_their_frame() -> None:
    event = msgspec.structs.replace(_EVENT, data=b'{\n"a":\r\n1}', type="x\ndata: forged")

    frame = event_frame(event, envelope_json(event), named=True)

    assert re.split(rb"\r\n|\n|\r", frame)[2:] == [b"", b""]
    assert msgspec.json.decode(frame.split(b"\ndata: ")[1])["type"] == "x\ndata: forged"


def test_frames_are_encoded_once_and_the_cache_is_bounded() -> None:
    frames = Frames(bytes_max=5_000)
    events = [msgspec.structs.replace(_EVENT, position=number) for number in range(1, 100)]

    first = [frames.of(event, Form()) for event in events]

    assert frames.of(events[-1], Form()) is first[-1]
    assert frames.of(events[-1], Form(named=True)) != first[-1]
    assert frames.of(msgspec.structs.replace(events[-1], data=None), Form()) != first[-1]
    assert frames.of(events[0], Form()) == first[0]
    assert 4_000 < frames.size_bytes <= 5_000

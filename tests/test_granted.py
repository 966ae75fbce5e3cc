"""What is granted to a process goes into its mirror as every other machine's mirror will have it."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from eventstore.grouping import Group
from eventstore.jetstream.address import Address, parse_address
from eventstore.jetstream.connection import Connection, Deliver
from eventstore.jetstream.ends import IDS_OF_RUN_MAX, Ends
from eventstore.jetstream.granted import Granted
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.rewritten import Files
from eventstore.preparing import prepare
from runfold.errors import LogFailed
from tests.contract.events import all_events, new_event, numbered
from tests.contract.jetstream import shared_cluster
from tests.working import PATIENCE_SECONDS

NOTHING = Group(0, 0)


def plan(ends: Ends, stream: str, expected: int, *, count: int = 1, at_us: int = 100) -> Planned:
    request = prepare(stream, numbered(1, count), expected)
    doubtful = ends.doubtful([request])
    ends.learn(doubtful, NOTHING)
    (planned,) = ends.plan([request], NOTHING, at_us)
    assert planned is not None
    return planned


@pytest.fixture
def ends() -> Ends:
    return Ends(lambda: 0)


def test_appends_are_numbered_in_the_order_of_the_stream_whichever_answer_comes_first(ends: Ends) -> None:
    granted = Granted(10, 50)
    first, second = plan(ends, "r_a", 0, count=2), plan(ends, "r_b", 0)

    (later,) = granted.add([(second, 13)])
    taken_early = granted.take()
    (earlier,) = granted.add([(first, 12)])
    taken = granted.take()

    assert taken_early == []
    assert [row[0] for row in taken] == [11, 12, 13]
    assert [row[1] for row in taken] == ["r_a", "r_a", "r_b"]
    assert (earlier.rows, later.rows) == (taken[:2], taken[2:])
    assert granted.upto == 13


def test_what_stands_behind_an_event_of_others_waits_until_the_mirror_has_that_one(ends: Ends) -> None:
    granted = Granted(10, 50)

    (grant,) = granted.add([(plan(ends, "r_a", 0), 12)])
    waiting = granted.take()
    granted.mirrored(11, [(11, "r_z", 1, b"", "note_added", 1, 0, 900)])
    (row,) = granted.take()

    assert waiting == []
    assert grant.rows == [row]
    # The other machine's clock is ahead, and time never goes back along the stream.
    assert (row[0], row[7]) == (12, 900)


def test_what_arrives_before_its_answer_is_answered_as_the_mirror_took_it(ends: Ends) -> None:
    granted = Granted(10, 50)
    planned = plan(ends, "r_a", 0)
    row = (12, *planned.rows[0][1:])

    (grant,) = granted.add([(planned, 12)])
    granted.mirrored(12, [(11, "r_z", 1, b"", "note_added", 1, 0, 60), row])

    assert grant.rows == [row]
    assert granted.take() == []


def test_an_event_that_arrives_otherwise_than_it_was_sent_is_not_passed_over(ends: Ends) -> None:
    granted = Granted(10, 50)
    planned = plan(ends, "r_a", 0, count=2)
    granted.add([(planned, 12)])
    sent = planned.messages[1]
    altered = sent[:-1] + bytes([sent[-1] ^ 1])

    assert granted.is_known(11, planned.messages[0])
    assert not granted.is_known(12, altered)
    with pytest.raises(LogFailed, match="position 12"):
        granted.unknown([(12, altered), (13, b"next")])


def test_an_append_that_names_a_known_event_or_another_end_is_left_to_the_mirror(ends: Ends) -> None:
    event = new_event()
    request = prepare("r_a", [event], 0)
    ends.learn([request], NOTHING)
    (first,) = ends.plan([request], NOTHING, 100)
    assert first is not None
    ends.granted(first, 7)

    again, late, twice, next_one = ends.plan(
        [
            prepare("r_a", [event], 7),
            prepare("r_a", [new_event()], 6),
            prepare("r_a", [new_event()], 7),
            prepare("r_a", [new_event()], 7),
        ],
        NOTHING,
        100,
    )

    assert (again, late, next_one) == (None, None, None)
    assert twice is not None
    assert (twice.expected, twice.rows[0][2]) == (7, 2)


def test_of_a_long_run_the_mirror_is_asked_for_older_events(ends: Ends) -> None:
    position = 0
    for _ in range(IDS_OF_RUN_MAX // 500 + 1):
        planned = plan(ends, "r_a", position, count=500)
        position += 500
        ends.granted(planned, position)

    request = prepare("r_a", [new_event()], position)

    assert ends.doubtful([request]) == [request]


def test_a_run_that_another_machine_wrote_to_is_forgotten(ends: Ends) -> None:
    ends.granted(plan(ends, "r_a", 0), 1)
    ends.granted(plan(ends, "r_b", 0), 2)
    requests = [prepare(stream, [new_event()], 1) for stream in ("r_a", "r_b")]

    ends.forget_passed([(1, "r_a"), (3, "r_b")], but=())

    assert ends.doubtful(requests) == requests[1:]


async def test_messages_are_the_same_wherever_what_was_read_is_cut() -> None:
    sent = (
        b"PONG\r\nMSG a.b 1 5\r\nhel\r\n\r\nHMSG a.c 1 to.me 12 14\r\nNATS/1.0\r\n\r\nok\r\n"
        b"HMSG a.d 1 31 31\r\nNATS/1.0 100 Idle Heartbeat\r\n\r\n\r\nMSG a.e 2 0\r\n\r\nMSG a.f 1 0\r\n\r\n+OK\r\n"
    )
    for cut in range(len(sent) + 1):
        connection = Connection()
        came: list[tuple[bytes, ...]] = []
        connection._delivered[1] = _into(came)

        await connection._ps.parse(sent[:cut])
        await connection._ps.parse(sent[cut:])

        assert came == [
            (b"a.b", b"", b"", b"hel\r\n"),
            (b"a.c", b"to.me", b"NATS/1.0\r\n\r\n", b"ok"),
            (b"a.d", b"", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b""),
            (b"a.f", b"", b"", b""),
        ]


def _into(came: list[tuple[bytes, ...]]) -> Deliver:
    def deliver(subject: bytes, reply: bytes, headers: bytes, content: bytes) -> None:
        came.append((subject, reply, headers, content))

    return deliver


@pytest.fixture
def address() -> Address:
    return parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}"))


@pytest.fixture
async def both(tmp_path: Path, address: Address) -> AsyncGenerator[tuple[JetStreamLog, JetStreamLog]]:
    logs = [await JetStreamLog.connect(address, tmp_path / name) for name in ("one", "two")]
    yield logs[0], logs[1]
    for log in logs:
        await log.close()


@pytest.mark.slow
async def test_machines_that_write_at_once_have_one_log_and_were_answered_with_it(
    both: tuple[JetStreamLog, JetStreamLog],
) -> None:
    async def write(log: JetStreamLog, run: str) -> list[bytes]:
        last, hashes = 0, list[bytes]()
        for number in range(20):
            appended = await log.append(run, numbered(number, 1 + number % 3), expected=last)
            last = appended.last
            hashes += [event.hash for event in appended.events]
            assert [event.position for event in appended.events] == list(range(appended.first, last + 1))
        return hashes

    answered = await asyncio.gather(*(write(log, f"r_{n}{m}") for n, log in enumerate(both) for m in range(3)))

    one, two = [await all_events(log) for log in both]
    assert one == two
    assert [event.position for event in one] == list(range(1, len(one) + 1))
    assert sorted(event.hash for event in one) == sorted(each for hashes in answered for each in hashes)
    assert [event.recorded_at_us for event in one] == sorted(event.recorded_at_us for event in one)


@pytest.mark.slow
async def test_a_run_is_gone_on_with_by_whoever_appends_next(both: tuple[JetStreamLog, JetStreamLog]) -> None:
    last = 0
    for number in range(12):
        log = both[number % 2]
        last = (await log.append("r_a", numbered(number, 1), expected=last)).last

    assert [event.version for event in await all_events(both[0], stream="r_a")] == list(range(1, 13))


@pytest.mark.slow
async def test_what_was_granted_is_kept_where_what_arrived_behind_it_cannot_be_made_ready(
    both: tuple[JetStreamLog, JetStreamLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = both
    secret = await one.append("r_b", [new_event(b'{"text":"secret"}')], expected=0)
    first = await two.append("r_a", numbered(1, 1), expected=0)
    serve, files = two._serve_lone, two._rewritten.files
    looks, is_ready, goes_on = list[str](), asyncio.Event(), asyncio.Event()

    async def serve_later(*each: Any) -> None:
        await goes_on.wait()
        await serve(*each)

    async def files_once_asked(event_id: str) -> Files | None:
        looks.append(event_id)
        if len(looks) == 1:
            raise TimeoutError
        is_ready.set()
        return await files(event_id)

    monkeypatch.setattr(two, "_fill_at_once", lambda: False)
    monkeypatch.setattr(two, "_serve_lone", serve_later)
    monkeypatch.setattr(two._rewritten, "files", files_once_asked)
    answer = asyncio.create_task(two.append("r_a", numbered(2, 1), expected=first.last))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not two._granted.rows:
            await asyncio.sleep(0)
        await one.redact("r_b", positions=[secret.last], actor="user:a")
        await is_ready.wait()
    goes_on.set()
    appended = await answer

    events = await all_events(two)
    assert [event.position for event in events] == [secret.last, first.last, appended.last, appended.last + 1]
    assert events == await all_events(one)
    assert (await two.bounds()).first == 1

"""Frames are made once for all who come back, and never outlive the history that they tell."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import ready
from eventstore.framing import Framed, Framing
from eventstore.keeping.cleaning import EVER_US, candidates, clean, trim
from eventstore.keeping.redacting import redact
from eventstore.keeping.restoring import restore
from eventstore.log_file import open_reader
from eventstore.proof.checking import open_checked
from eventstore.reading import read_page
from eventstore.ready import ReadyPages
from eventstore.splicing import FRAMES_BYTES, PAGE_ROWS, read_found
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Complete, Observe, OpenReported
from runfold.errors import Damaged, Trimmed
from runfold.events import FileWritten, Message, RunQueued
from tests.contract.events import numbered
from tests.ledgers import RUN, act, opened, say

SECRET = "hunter2-swordfish"
OTHER = "r_" + "b" * 26
NARROWED = [Framing(types=("message",)), Framing(tenant="nobody's")]
FRAMINGS = [Framing(), Framing(named=True), *NARROWED]


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Two runs of four full pages and a little more, one in the other, each with a secret near its beginning."""
    async with opened(tmp_path) as ledger:
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=OTHER)
        for number in range(6):
            for run_id in (RUN, OTHER):
                files = [FileWritten(path=f"src/{number}-{other}.py") for other in range(PAGE_ROWS * 2 // 3)]
                said = Message(role="assistant", text=f"the password is {SECRET} for {number}")
                await act(ledger, Observe(events=(said, *files)), run_id=run_id)
        for run_id in (RUN, OTHER):
            await act(ledger, Complete(), run_id=run_id)
    return tmp_path


@pytest.fixture
def reader(data: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_checked(data)) as connection:
        yield connection


def read_framed(
    reader: sqlite3.Connection, *, after: int, framing: Framing, stream: str | None = None, rows_max: int = PAGE_ROWS
) -> list[Framed]:
    """The pages after a position as they are read where nothing is ready."""
    return read_found(reader, after=after, framing=framing, stream=stream, rows_max=rows_max)[1]


def content(
    pages: ReadyPages | None, reader: sqlite3.Connection, stream: str | None, framing: Framing, after: int = 0
) -> bytes:
    """Everything after a position, from what is ready or, for comparison, without it."""
    found = b""
    while True:
        read = read_framed if pages is None else pages.read
        some = read(reader, after=after, framing=framing, stream=stream)
        found += b"".join(page.content for page in some)
        if some[-1].scanned_to == after:
            return found
        after = some[-1].scanned_to


def test_who_comes_back_at_any_place_is_given_from_ready_pages_what_the_log_holds_after_it(
    reader: sqlite3.Connection,
) -> None:
    pages = ReadyPages()
    head = reader.execute("SELECT position FROM head").fetchone()[0]
    places = [0, 300, 299, 7, 500, 1, head - 1, head, 256, 600, 0]
    asked = [(stream, framing, after) for stream in (None, RUN) for framing in FRAMINGS for after in places]

    found = [content(pages, reader, *one) for one in asked]

    assert found == [content(None, reader, *one) for one in asked]
    assert pages.size_bytes > 0


def test_what_one_was_given_the_next_is_given_without_reading_the_events_again(reader: sqlite3.Connection) -> None:
    pages = ReadyPages()
    first = pages.read(reader, after=0, framing=Framing(), stream=RUN)
    first += pages.read(reader, after=first[-1].scanned_to, framing=Framing(), stream=RUN)
    asked = list[str]()
    reader.set_trace_callback(asked.append)

    again = pages.read(reader, after=0, framing=Framing(), stream=RUN)
    within = pages.read(reader, after=first[0].scanned_to + 1, framing=Framing(), stream=RUN)
    once_more = pages.read(reader, after=0, framing=Framing(), stream=RUN)

    assert again == first[: len(again)]
    assert within[0].content in first[1].content
    assert all(one is other for one, other in zip(once_more, again, strict=False))
    assert asked
    assert not _of_events(asked)


def test_the_second_is_given_what_the_first_was_whatever_he_wants_of_it(reader: sqlite3.Connection) -> None:
    for stream in (None, RUN):
        for framing in FRAMINGS:
            expected = content(None, reader, stream, framing, after=250)
            pages = ReadyPages()
            content(pages, reader, stream, Framing())
            asked = list[str]()
            reader.set_trace_callback(asked.append)

            some = pages.read(reader, after=250, framing=framing, stream=stream)

            reader.set_trace_callback(None)
            assert not _of_events(asked)
            assert expected.startswith(b"".join(page.content for page in some))
            assert some[0].content or framing in NARROWED
            assert content(pages, reader, stream, framing, after=250) == expected


def _of_events(statements: list[str]) -> list[str]:
    return [statement for statement in statements if "data" in statement]


def _redacted(data: Path) -> None:
    redact(data, RUN, texts=(SECRET,), actor="user:a")


def _cleaned(data: Path) -> None:
    clean(data, candidates(data, before_us=EVER_US, whole=False), actor="user:a")


def _filled_again(data: Path) -> None:
    for archive in sorted((data / "archives").iterdir()):
        restore(archive, data, actor="user:a")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("rewrite", [_redacted, _cleaned, _filled_again])
def test_no_page_outlives_what_another_process_has_taken_out_of_history_or_put_back(
    data: Path, reader: sqlite3.Connection, rewrite: Callable[[Path], None], times: int
) -> None:
    if rewrite is _filled_again:
        _cleaned(data)
    pages = ReadyPages()
    # What was asked for once is kept otherwise than what was asked for again.
    asked = [content(pages, reader, RUN, Framing()) for _ in range(times)]

    rewrite(data)

    assert content(pages, reader, RUN, Framing()) == content(None, reader, RUN, Framing()) != asked[-1]


def test_no_page_outlives_its_run(data: Path, reader: sqlite3.Connection) -> None:
    pages = ReadyPages()
    content(pages, reader, RUN, Framing())
    content(pages, reader, OTHER, Framing())

    trim(data, (RUN,), actor="user:a")

    with pytest.raises(Trimmed):
        pages.read(reader, after=0, framing=Framing(), stream=RUN)
    assert content(pages, reader, OTHER, Framing()) == content(None, reader, OTHER, Framing())


async def test_pages_stay_while_a_run_goes_on_until_too_much_was_appended_to_look_at(
    data: Path, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = ReadyPages()
    first = pages.read(reader, after=0, framing=Framing(), stream=RUN)
    asked = list[str]()
    reader.set_trace_callback(asked.append)
    async with opened(data, "r_c") as ledger:
        await act(ledger, say("a", "b"), run_id="r_c")
        stayed = pages.read(reader, after=0, framing=Framing(), stream=RUN)
        monkeypatch.setattr(ready, "LOOKED_AT_MAX", 1)
        await act(ledger, say("c", "d"), run_id="r_c")
    asked_before = [*asked]

    gone = pages.read(reader, after=0, framing=Framing(), stream=RUN)

    assert stayed == gone == first
    assert not _of_events(asked_before)
    assert _of_events(asked[len(asked_before) :])


def test_ready_pages_take_no_more_memory_than_they_may(reader: sqlite3.Connection) -> None:
    bytes_max = 200_000
    pages = ReadyPages(bytes_max)
    sizes = list[int]()
    for stream in (RUN, RUN, OTHER, None, RUN):
        for framing in (Framing(), Framing(named=True)):
            assert content(pages, reader, stream, framing) == content(None, reader, stream, framing)
            sizes.append(pages.size_bytes)

    assert bytes_max / 2 < max(sizes) <= bytes_max


@pytest.mark.parametrize("stream", [None, RUN])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_several_pages_of_one_reading_are_those_of_as_many_readings(
    reader: sqlite3.Connection, stream: str | None, framing: Framing
) -> None:
    many = read_framed(reader, after=0, framing=framing, stream=stream, rows_max=10_000)

    assert b"".join(page.content for page in many) == content(None, reader, stream, framing)
    assert max(len(page.content) for page in many) <= FRAMES_BYTES
    assert [page.is_full for page in many] == [True] * (len(many) - 1) + [False]
    # None is left with a frame or two.
    assert min(len(page.content) for page in many) >= max(len(page.content) for page in many) / 2
    assert len(many) > 1 or framing in NARROWED


def test_positions_that_nobody_has_are_passed_over_at_once(data: Path) -> None:
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_remain")
        file.execute("DELETE FROM events WHERE position BETWEEN 11 AND 900")
    with closing(open_reader(data)) as reader:
        before = read_framed(reader, after=0, framing=Framing(), rows_max=10)
        gap = read_framed(reader, after=10, framing=Framing(), rows_max=10)
        after = read_framed(reader, after=gap[-1].scanned_to, framing=Framing(), rows_max=10)

    assert [(page.scanned_to, page.is_full) for page in (*before, *gap)] == [(10, True), (900, True)]
    assert not gap[0].content
    assert after[0].content.startswith(b"id: 901-")


@pytest.mark.parametrize("change", ["actor = 'user:x'", "actor = CAST(x'ff' AS TEXT)", "data = x'ff'"])
def test_who_reads_ahead_is_given_the_pages_before_what_was_altered_and_is_told_when_he_comes_to_it(
    data: Path, change: str
) -> None:
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_stay")
        file.execute(f"UPDATE events SET {change} WHERE position = 400")
    with closing(open_checked(data)) as reader:
        places, told = [0], ""
        while not told:
            try:
                places.append(read_framed(reader, after=places[-1], framing=Framing(), rows_max=512)[-1].scanned_to)
            except Damaged as error:
                told = str(error)

    assert 200 < places[1] <= places[-1] < 400
    assert " 400" in told


def test_who_reads_on_is_given_what_as_many_reads_find(reader: sqlite3.Connection) -> None:
    pages = ReadyPages()
    expected = list[Framed]()
    for _ in range(3):
        after = expected[-1].scanned_to if expected else 0
        expected += read_framed(reader, after=after, framing=Framing(), stream=RUN, rows_max=100)

    found = pages.read_on(reader, after=0, framing=Framing(), stream=RUN, rows_max=100, reads=3)
    end = pages.read_on(reader, after=found[-1].scanned_to, framing=Framing(), stream=RUN, rows_max=100, reads=9)

    assert found == expected
    assert end[-1].version == reader.execute("SELECT version FROM heads WHERE run_id = ?", (RUN,)).fetchone()[0]
    assert not end[-1].is_full


def test_who_reads_on_is_given_what_is_sound_before_what_was_altered(data: Path) -> None:
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_stay")
        file.execute("UPDATE events SET actor = 'user:x' WHERE position = 400")
    with closing(open_checked(data)) as reader:
        before = ReadyPages().read_on(reader, after=0, framing=Framing(), stream=None, rows_max=100, reads=9)

        assert 300 <= before[-1].scanned_to < 400


def test_what_comes_after_known_events_is_checked_though_they_are_read_without_their_salts(data: Path) -> None:
    with closing(open_checked(data)) as reader:
        known = read_framed(reader, after=0, framing=Framing(), stream=RUN, rows_max=32)
        with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
            file.execute("DROP TRIGGER events_stay")
            file.execute("UPDATE events SET salt = zeroblob(16) WHERE run_id = ? AND version = 300", (RUN,))
        asked = list[str]()
        reader.set_trace_callback(asked.append)
        again = read_framed(reader, after=0, framing=Framing(), stream=RUN, rows_max=32)

        assert again == known
        assert not [statement for statement in asked if "salt" in statement]
        before = read_framed(reader, after=0, framing=Framing(), stream=RUN, rows_max=512)
        assert 32 < before[-1].version < 300
        with pytest.raises(Damaged, match="version 300"):
            read_framed(reader, after=before[-1].scanned_to, framing=Framing(), stream=RUN, rows_max=512)


async def _exchanged(data: Path, place: int, other: int) -> None:
    """A run of ten events and one of twelve; two have changed places, and nothing seals them."""
    log = await SqliteLog.open(data)
    await log.append(OTHER, numbered(0, 10), expected=0)
    await log.append(RUN, numbered(100, 12), expected=0)
    await log.close()
    (data / "anchors.jsonl").unlink()
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DELETE FROM anchors")
        file.execute("DROP TRIGGER events_stay")
        for before, after in ((place, -1), (other, place), (-1, other)):
            file.execute("UPDATE events SET position = ? WHERE position = ?", (after, before))


async def test_no_event_of_another_run_is_served_where_somebody_has_put_it_between_a_runs_own(tmp_path: Path) -> None:
    await _exchanged(tmp_path, 10, 20)

    # As a mirror is read, where nothing else is checked.
    with closing(open_reader(tmp_path)) as reader:
        found = read_framed(reader, after=12, framing=Framing(), stream=RUN)
    with closing(open_checked(tmp_path)) as reader, pytest.raises(Damaged, match=RUN):
        read_framed(reader, after=12, framing=Framing(), stream=RUN)

    assert b"".join(page.content for page in found).count(RUN.encode()) == 9
    assert OTHER.encode() not in found[0].content


@pytest.mark.parametrize("stream", [None, RUN])
async def test_an_earlier_event_is_not_served_in_the_place_of_a_later_one(tmp_path: Path, stream: str | None) -> None:
    await _exchanged(tmp_path, 12, 17)

    with closing(open_checked(tmp_path)) as reader:
        with pytest.raises(Damaged, match="before event 17"):
            read_framed(reader, after=16, framing=Framing(), stream=stream, rows_max=2)
        with pytest.raises(Damaged, match="before event 17"):
            read_page(reader, after=16, stream=stream, limit=2)

"""A file that is broken, of another kind or made to harm is refused with its line, or read for what it is."""

import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from eventstore.sqlite import SqliteLog
from runfold.errors import BadRequest, RunfoldError, TooLarge
from runfold.events import decode_data, encode_data, event_type
from runner.formats.values import list_of
from runner.imports import source as source_module
from runner.imports.recognise import Telling
from runner.imports.source import Source
from tests.book import Book
from tests.import_samples import CLAUDE, SAMPLES, Sample, lines

BROKEN = CLAUDE.splitlines(keepends=True)


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    log = await SqliteLog.open(tmp_path / "data")
    yield Book(log, tmp_path / "data")
    await log.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"\x7fELF\0\0\0", "is binary"),
        (b"\x1f\x8b\x08junk", "is compressed"),
        (b"hello\nworld\n", "line 1 is not a recorded session"),
        (b'{"some": "json"}\n{"of": "ours"}\n', "line 1 is JSON, but no session"),
        (b"[]", "empty list"),
        (("".join(BROKEN[:3]) + BROKEN[3][:20]).encode(), "line 4 breaks off in the middle"),
        (("".join(BROKEN[:3]) + "{oops}\n" + BROKEN[3]).encode(), "line 4 is not JSON"),
        (CLAUDE.encode().replace(b"Look closely", b"Look \xff\xfe"), "line 6 is not JSON"),
        (SAMPLES["dbt"].content[:-30].encode(), "is not whole JSON"),
        (b'{"a":' * 100_000, "is not whole JSON"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
async def test_bad_input_is_refused_with_its_file_its_line_and_what_to_do_and_leaves_nothing(
    content: bytes, says: str, book: Book, tmp_path: Path
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    head = await book.head()

    with pytest.raises(RunfoldError) as caught:
        await book.bring(path)

    assert says in caught.value.message
    assert f"`{path}`" in caught.value.message
    assert caught.value.hint
    assert await book.head() == head


async def test_a_file_of_2_gb_with_one_line_is_refused_before_it_is_read_whole(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "RECORD_BYTES_MAX", 1024 * 1024)
    path = tmp_path / "huge"
    path.write_bytes(b'{"type": "user", "text": "' + b"x" * 5000)
    os.truncate(path, 2 * 1024**3)

    with pytest.raises(TooLarge, match="line 1 is longer than 1 MiB"):
        await book.bring(path)


@pytest.mark.parametrize("what", ["missing", "folder"])
async def test_what_is_no_file_is_refused(what: str, book: Book, tmp_path: Path) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()

    with pytest.raises(RunfoldError, match=what if what == "folder" else "there is no file"):
        await book.bring(path)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_whatever_happens_to_a_file_it_is_read_or_refused(name: str, tmp_path: Path) -> None:
    chance = random.Random(name)
    path = tmp_path / "damaged"
    whole = SAMPLES[name].content.encode()
    outcomes = Counter[str]()

    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(len(damaged))
            match chance.randrange(3):
                case 0:
                    damaged[place] ^= 1 << chance.randrange(8)
                case 1:
                    del damaged[place : place + chance.randint(1, 20)]
                case _:
                    damaged[place:place] = chance.choice([b"null", b"[]", b"{}", b"1e999", b'"x"', b"-1", b"true"])
        path.write_bytes(damaged)
        try:
            told = list(Telling(Source(path), fallback_us=0).events())
            outcomes["read"] += bool(told)
        except RunfoldError:
            outcomes["refused"] += 1

    assert outcomes["refused"] > 0


JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "x",
    "2026-13-45T99:99:99Z",
    [],
    [None],
    {},
    {"type": "text"},
    [[1]],
    {"a": {}},
)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_reader_believes_nothing_about_the_values_of_its_records(name: str, tmp_path: Path) -> None:
    sample, chance = SAMPLES[name], random.Random(name)
    path = tmp_path / "odd"
    told = 0

    for _ in range(150):
        path.write_text(lines(*(_spoiled(record, chance) for record in _records(sample))))
        try:
            for _, timed in Telling(Source(path), fallback_us=0).events():
                decode_data(event_type(timed.event), encode_data(timed.event))
            told += 1
        except BadRequest:
            continue

    assert told > 0


def _records(sample: Sample) -> list[Any]:
    try:
        whole: Any = json.loads(sample.content)
    except ValueError:
        return [json.loads(line) for line in sample.content.splitlines()]
    return list_of(whole) or [whole, whole]


def _spoiled(value: Any, chance: random.Random, odds: float = 0.06) -> Any:
    if chance.random() < odds:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        return {key: _spoiled(item, chance) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_spoiled(item, chance) for item in list_of(value)]
    return value

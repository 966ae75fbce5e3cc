"""A text too long for an event is kept whole beside it, and the event stays readable."""

import json
from pathlib import Path

import msgspec
import pytest

from eventstore.contract import EVENT_BYTES_MAX
from eventstore.objects import blobs
from eventstore.objects.overflow import overflow
from runfold.envelope import Recorded, envelope_json
from runfold.errors import InvalidEvent, TooLarge
from runfold.events import CommandExecuted, Message, ToolCalled, decode_data, decode_stored, encode_data
from runfold.long_text import HEAD_BYTES, shorten

LONG = "é" + "line of a build\n" * 10_000


def test_a_text_too_long_for_an_event_is_stored_whole_and_named_with_its_size_and_beginning(tmp_path: Path) -> None:
    stored = overflow(tmp_path, "message", encode_data(Message(text=LONG)))

    field = json.loads(stored)["text"]
    assert sorted(field) == ["blob", "bytes", "head"]
    assert blobs.get(tmp_path, field["blob"]) == LONG.encode()
    assert field["bytes"] == len(LONG.encode())
    assert LONG.startswith(field["head"])
    assert len(field["head"].encode()) == HEAD_BYTES


def test_data_that_fits_is_left_alone(tmp_path: Path) -> None:
    data = b'{"text":"' + b"x" * (EVENT_BYTES_MAX - 11) + b'"}'
    assert len(data) == EVENT_BYTES_MAX

    assert overflow(tmp_path, "message", data) is data
    assert list(tmp_path.iterdir()) == []


def test_only_the_longest_text_leaves_and_the_rest_stays_byte_for_byte(tmp_path: Path) -> None:
    short = "s" * 5_000
    data = b'{"big": 123456789012345678901234567890, "f":1.50 ,"a":[{"b":"%s"},"%s"]}' % (b"L" * 70_000, short.encode())

    stored = overflow(tmp_path, "tool_called", data)

    assert b'"big":123456789012345678901234567890,"f":1.50' in stored
    assert json.loads(stored)["a"][0]["b"]["bytes"] == 70_000
    assert json.loads(stored)["a"][1] == short


def test_the_same_event_always_becomes_the_same_data(tmp_path: Path) -> None:
    data = encode_data(Message(text=LONG))

    assert overflow(tmp_path, "message", data) == overflow(tmp_path, "message", data)


def test_a_character_is_not_cut_in_two_at_the_end_of_the_head(tmp_path: Path) -> None:
    stored = overflow(tmp_path, "message", encode_data(Message(text="x" + "é" * 40_000)))

    assert json.loads(stored)["text"]["head"] == "x" + "é" * ((HEAD_BYTES - 1) // 2)


def test_many_small_parts_that_are_too_large_together_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    data = msgspec.json.encode({"paths": ["p" * 1000] * 100, "text": "x" * 3000})

    with pytest.raises(TooLarge, match="a `message` event has"):
        overflow(tmp_path, "message", data)

    assert list(tmp_path.iterdir()) == []


def test_control_characters_that_grow_in_json_never_make_the_data_longer() -> None:
    data = msgspec.json.encode({"texts": ["\x01" * 12_000, "\x02" * 400]})

    shortened, texts = shorten(data, 20_000)

    assert len(shortened) <= 20_000
    assert texts == (b"\x01" * 12_000,)


def test_a_fold_reads_the_beginning_where_the_envelope_shows_what_is_stored(tmp_path: Path) -> None:
    stored = overflow(tmp_path, "command_executed", encode_data(CommandExecuted(command=LONG, exit_code=3)))
    recorded = Recorded(
        position=1, run_id="r", version=1, id="i", type="command_executed", schema=1, at_us=0, recorded_at_us=0,
        tenant="default", actor="system", cause=None, command=None, sent=None, correlation="", hash=b"h", data=stored,
    )  # fmt: skip

    event = recorded.event()

    assert isinstance(event, CommandExecuted)
    assert event.command == LONG.encode()[:HEAD_BYTES].decode()
    assert event.exit_code == 3
    assert json.loads(envelope_json(recorded))["data"] == json.loads(stored)


def test_a_field_of_any_shape_keeps_what_a_caller_put_there() -> None:
    argument = {"blob": "a" * 64, "bytes": 5, "head": "hello"}

    event = decode_stored("tool_called", encode_data(ToolCalled(tool="t", call_id="c", arguments=argument)))

    assert isinstance(event, ToolCalled)
    assert event.arguments == argument


def test_a_caller_cannot_send_an_object_where_a_text_is_due() -> None:
    with pytest.raises(InvalidEvent):
        decode_data("message", b'{"text":{"blob":"%s","bytes":5,"head":"hello"}}' % (b"a" * 64))
    with pytest.raises(InvalidEvent):
        decode_stored("message", b'{"text":{"blob":"none","bytes":5,"head":"hello"}}')

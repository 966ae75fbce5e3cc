"""Every event type goes through JSON unchanged, and what the log holds stays readable."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runfold import events as e
from runfold.errors import InvalidEvent


def smallest(kind: Any) -> Any:
    """The event of a kind with only what it must have."""
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.required:
            given[field.name] = "x" if field.type is str else 1
    return kind(**given)


@pytest.mark.parametrize("name", sorted(e.EVENT_TYPES))
def test_every_event_comes_back_from_its_json_as_it_was(name: str) -> None:
    event = smallest(e.EVENT_TYPES[name])

    data = e.encode_data(event)

    assert e.event_type(event) == name
    assert e.decode_data(name, data) == event


@pytest.mark.parametrize(
    ("name", "data", "event"),
    [
        ("run_claimed", b'{"worker":"w","claim":2}', e.RunClaimed(worker="w", claim=2)),
        ("run_started", b'{"worker":"w","pid":7}', e.RunStarted(worker="w", pid=7)),
        ("run_completed", b'{"reason_code":"EXIT_ZERO"}', e.RunCompleted(reason_code="EXIT_ZERO")),
        (
            "run_failed",
            b'{"reason_code":"DEP_X","error":{"type":"dependency","code":"DEP_X"}}',
            e.RunFailed(reason_code="DEP_X", error=e.Failure(type="dependency", code="DEP_X")),
        ),
        (
            "run_cancelled",
            b'{"receipt":{"found":2,"signals":["TERM"],"survivors":[9]}}',
            e.RunCancelled(receipt=e.Receipt(found=2, signals=("TERM",), survivors=(9,))),
        ),
        ("token_usage", b'{"input_tokens":5,"cost_micros":9}', e.TokenUsage(input_tokens=5, cost_micros=9)),
        ("file_written", b'{"path":"a.py","bytes":12}', e.FileWritten(path="a.py", bytes=12)),
    ],
)
def test_lines_that_the_log_holds_stay_readable(name: str, data: bytes, event: Any) -> None:
    assert e.decode_data(name, data) == event
    assert e.encode_data(event) == data


GOLDEN = [line.split("\t") for line in (Path(__file__).parent / "golden_events.tsv").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("name", "data"), GOLDEN, ids=[name for name, _ in GOLDEN])
def test_every_type_has_a_line_with_all_its_fields_that_stays_readable_byte_for_byte(name: str, data: str) -> None:
    event = e.decode_data(name, data.encode())

    assert isinstance(event, e.EVENT_TYPES[name])
    assert e.encode_data(event) == data.encode()


def test_no_type_is_without_its_line() -> None:
    assert {name for name, _ in GOLDEN} == set(e.EVENT_TYPES)


def test_a_field_that_a_later_version_adds_is_ignored() -> None:
    assert e.decode_data("file_read", b'{"path":"a","new":1}') == e.FileRead(path="a")


def test_an_unknown_type_is_kept_byte_for_byte() -> None:
    event = e.decode_data("brand_new", b'{"a": 1}')

    assert isinstance(event, e.Unknown)
    assert e.encode_data(event) == b'{"a": 1}'


def test_a_known_type_with_another_shape_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="file_written"):
        e.decode_data("file_written", b'{"path":1}')

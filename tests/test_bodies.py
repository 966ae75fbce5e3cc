"""A body is judged by a look at its bytes where that is enough, and never otherwise than by all of it decoded."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.requests import DEPTH_MAX, NUMBER_MAX, decode_body
from runfold.errors import BadRequest
from runfold.reporting import EventsBody

_texts = st.text(st.sampled_from('ab1e9.,:{}[]" \\é\n'), max_size=24)
_values = st.recursive(
    st.none() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=40,
)


def inner_of(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def depth(value: Any) -> int:
    return isinstance(value, dict | list) + max(map(depth, inner_of(value)), default=0)


def numbers(value: Any) -> list[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    return [number for inner in inner_of(value) for number in numbers(inner)]


def is_taken(content: bytes) -> bool:
    try:
        decode_body(content, object)
    except BadRequest:
        return False
    return True


@given(_values, st.integers(0, 2 * DEPTH_MAX), st.booleans())
def test_no_body_is_taken_that_is_too_deep_or_has_too_large_a_number(value: Any, levels: int, named: bool) -> None:
    for _ in range(levels):
        value = {"a": value, "b": "[{"} if named else [value, 1]

    content = json.dumps(value, separators=(",", ":")).encode()

    if all(abs(number) <= NUMBER_MAX for number in numbers(value)) and depth(value) < DEPTH_MAX:
        assert is_taken(content)
    if any(abs(number) > NUMBER_MAX for number in numbers(value)) or depth(value) > DEPTH_MAX:
        assert not is_taken(content)


@pytest.mark.parametrize(
    "number", ["9007199254740993", "-9007199254740993", "1e17", "1.5E300", "12345678901234567890.5"]
)
@pytest.mark.parametrize("inside", ["%s", "[%s]", '{"a":%s}', '["x", %s]', '{"a":\n\t%s}'])
def test_a_number_beyond_2_to_the_53_is_refused_wherever_it_stands(number: str, inside: str) -> None:
    with pytest.raises(BadRequest, match=r"larger than 2\^53"):
        decode_body((inside % number).encode(), object)


def test_ids_and_paths_that_look_like_numbers_are_texts() -> None:
    event = {
        "type": "message",
        "id": "1e17e900-0000-4000-8000-000000000000",
        "data": {"text": "a,1e99:12345678901234567"},
    }

    body = decode_body(msgspec.json.encode({"events": [event] * 100}), EventsBody)

    assert len(body.events) == 100

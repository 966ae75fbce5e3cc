"""No output whatever makes a parser fail, report what a child may not say, or count below zero."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.contract import EVENT_BYTES_MAX
from runfold.events import Event, TokenUsage, Unknown, decode_data, encode_data, event_type
from runfold.observing import CHILD_TYPES
from runner.formats.choosing import FORMATS, parser_of, recognise

RECORDINGS = Path(__file__).parent / "recordings"
OURS = sorted(path for path in RECORDINGS.glob("*/*.jsonl") if not path.name.endswith(".events.jsonl"))
NAMES = [known.name for known in FORMATS]
LINES = [line for path in OURS for line in path.read_text().splitlines()]
WORDS = sorted({word for line in LINES for word in line.split('"')[1::2] if word.isascii() and len(word) < 40})
ALLOWED = CHILD_TYPES | {"telemetry_rejected"}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=20,
)


def check(name: str, lines: Iterable[str]) -> list[Event | Unknown]:
    parser = parser_of(name)
    events = [*(event for line in lines for event in parser.line(line)), *parser.end()]
    for event in events:
        assert event_type(event) in ALLOWED
        data = encode_data(event)
        assert len(data) <= EVENT_BYTES_MAX
        # Decoding checks every number against its bounds.
        assert decode_data(event_type(event), data) == event
        if isinstance(event, TokenUsage):
            assert event.cost_micros is None or event.cost_micros >= 0
    assert parser.succeeded in (True, False, None)
    assert list(parser.end()) == []
    return events


@pytest.mark.parametrize("name", NAMES)
@given(lines=st.lists(JSON.map(json.dumps) | st.text(), max_size=8))
@settings(max_examples=60, deadline=None)
def test_random_json_is_survived(name: str, lines: list[str]) -> None:
    check(name, lines)


def changed(line: str, word: str, value: object) -> str:
    """The line with the value of one key replaced, wherever the key stands."""

    def walk(found: object) -> object:
        if isinstance(found, dict):
            return {key: value if key == word else walk(inner) for key, inner in found.items()}  # pyright: ignore
        return [walk(inner) for inner in found] if isinstance(found, list) else found  # pyright: ignore

    return json.dumps(walk(json.loads(line)))


@pytest.mark.parametrize("name", NAMES)
@given(lines=st.lists(st.builds(changed, st.sampled_from(LINES), st.sampled_from(WORDS), JSON), max_size=12))
@settings(max_examples=60, deadline=None)
def test_lines_that_are_almost_right_are_survived(name: str, lines: list[str]) -> None:
    check(name, lines)


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_shuffled_lines_are_survived(path: Path, data: st.DataObject) -> None:
    lines = path.read_text().splitlines()

    check(path.parent.name, data.draw(st.permutations(lines)))


@pytest.mark.slow
@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recording_cut_at_every_byte_is_survived(path: Path) -> None:
    name, content = path.parent.name, path.read_bytes()
    parser = parser_of(name)
    whole: list[Event | Unknown] = []
    for line in content.splitlines(keepends=True):
        # Every cut inside this line is the whole lines before it and one broken line, which must add nothing.
        for cut in range(1, len(line) - 1):
            assert list(parser.line(line[:cut].decode("utf-8", "replace"))) == []
        whole += parser.line(line.decode())
    whole += parser.end()

    assert whole == check(name, content.decode().splitlines())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "line",
    [
        '{"type":' * 100_000,
        '{"type":"item.completed","item":' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"type":"item.completed","item":{"type":"mcp_tool_call","arguments":' + '{"a":' * 80 + "1" + "}" * 82,
        '{"type":"item.completed","item":{"type":"mcp_tool_call","arguments":{"n":' + "9" * 400 + "}}}",
        '{"type":"turn.completed","usage":{"input_tokens":1e308,"output_tokens":-5,"cached_input_tokens":true}}',
        '{"type":"item.completed","item":{"type":"agent_message","text":"' + "\\u0001" * 200_000 + '"}}',
        '{"type":"item.completed","item":{"type":"agent_message","text":"' + "\U0001f600" * 200_000 + '"}}',
        '{"type":"item.completed","item":{"type":"agent_message","text":"\\ud800"}}',
        '{"type":"item.completed","item":{"type":"agent_message","text":"\udcff"}}',
        '{"type":"item.completed","item":{"type":"file_change","status":"completed","changes":['
        + ",".join(['{"path":"p"}'] * 10_000)
        + "]}}",
        '{"type":"x","sessionID":"s","part":{"id":"' + "p" * 100_000 + '"}}',
        "{" * 10 + "\0",
    ],
    ids=range(12),
)
def test_a_hostile_line_is_survived_and_stays_small(name: str, line: str) -> None:
    assert len(check(name, [line])) <= 510


def test_a_line_larger_than_any_file_is_only_output() -> None:
    line = '{"type":"item.completed","item":{"type":"agent_message","text":"' + "x" * 9_000_000 + '"}}'

    assert check("codex", [line]) == []


def test_a_thousand_open_tools_are_enough() -> None:
    started = '{"type":"item.started","item":{"id":"%d","type":"command_execution","command":"x"}}'

    events = check("codex", (started % number for number in range(1_500)))

    assert sum(event_type(event) == "tool_called" for event in events) == 1_500
    assert sum(event_type(event) == "tool_returned" for event in events) == 1_500


@given(st.lists(st.text() | JSON.map(json.dumps), max_size=30))
def test_any_output_is_recognised_as_something(lines: list[str]) -> None:
    assert recognise(lines) in NAMES

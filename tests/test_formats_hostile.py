"""No output whatever makes a parser fail, report what a child may not say, or count below zero."""

import json
import os
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.contract import EVENT_BYTES_MAX
from runfold.events import Event, TokenUsage, Unknown, decode_data, encode_data, event_type
from runfold.observing import CHILD_TYPES
from runner.formats.choosing import FORMATS, parser_of, recognise
from runner.formats.values import object_of
from runner.turns.listener import Listener
from runner.turns.output import Output

RECORDINGS = Path(__file__).parent / "recordings"
OURS = sorted(path for path in RECORDINGS.glob("*/*.jsonl") if "." not in path.stem)
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


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content after some accidents: bytes lost, changed, doubled or put in; values of other types; no line ends."""
    for _ in range(draw(st.integers(1, 4))):
        lines = content.split(b"\n")
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        number = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["lose", "change", "double", "put in", "join", "another value", "huge"])):
            case "lose":
                content = content[:at] + content[at + draw(st.integers(1, 400)) :]
            case "change":
                content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + 4 :]
            case "double":
                lines.insert(draw(st.integers(0, len(lines))), lines[number])
                content = b"\n".join(lines)
            case "put in":
                lines.insert(number, draw(st.binary(max_size=200)))
                content = b"\n".join(lines)
            case "join":
                content = content[:at] + content[at:].replace(b"\n", b"", 3)
            case "another value":
                lines[number] = _with_another_value(draw, lines[number])
                content = b"\n".join(lines)
            case _:
                content = content[:at] + b"9" * draw(st.sampled_from([20, 400, 70_000])) + content[at:]
    return content


def _with_another_value(draw: st.DrawFn, line: bytes) -> bytes:
    """One value somewhere in the line's JSON is another."""
    try:
        value = here = object_of(json.loads(line))
    except ValueError:
        return line
    while here:
        name = draw(st.sampled_from(sorted(here)))
        inner = object_of(here[name])
        if not inner or draw(st.booleans()):
            here[name] = draw(JSON)
            break
        here = inner
    return json.dumps(value).encode()


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_damaged_recording_is_kept_whole_and_told_as_far_as_it_goes(
    path: Path, named: bool, data: st.DataObject
) -> None:
    content = data.draw(damaged(path.read_bytes()))
    listener = Listener(format_name=path.parent.name if named else None)
    with tempfile.TemporaryDirectory() as folder:
        output = Output(Path(folder) / "output.log", (), listener)
        source, feed = os.pipe()
        pumping = threading.Thread(target=output.pump, args=(source, None, "stdout"))
        pumping.start()
        with open(feed, "wb") as writer:
            writer.write(content)
        pumping.join()
        output.finish()
        events: list[Event | Unknown] = []
        while output.has_telemetry:
            events += output.take(sampling=False)
        output.close()
        kept = (Path(folder) / "output.log").read_bytes()

    assert kept == content
    for event in events:
        assert event_type(event) in ALLOWED
        assert len(encode_data(event)) <= EVENT_BYTES_MAX
        assert decode_data(event_type(event), encode_data(event)) == event


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

"""What a program prints is heard: its agent's format, its tests' counts, its cost, and the word that ends the loop."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runfold.events import Event, FileWritten, Message, TestRunCompleted, TokenUsage, Unknown
from runner.patterns import check_pattern, searcher
from runner.prices import priced
from runner.turns.listener import Listener

ROOT = Path(__file__).parent.parent
RECORDINGS = Path(__file__).parent / "recordings"


def hear(text: str, **options: Any) -> tuple[list[Event | Unknown], Listener]:
    """All of a turn's output at once."""
    listener = Listener(**options)
    found: list[Event | Unknown] = []
    if listener.wants(text.encode(), "stdout"):
        found = [event for line in text.splitlines() for event in listener.line(line.encode(), "stdout")]
    return [*found, *listener.finish()], listener


@pytest.mark.parametrize("name", ["codex", "gemini", "opencode"])
@pytest.mark.parametrize("is_named", [True, False])
def test_an_agents_format_is_heard_named_or_recognised(name: str, is_named: bool) -> None:
    (recording,) = RECORDINGS.rglob(f"{name}/work.jsonl")

    events, listener = hear(recording.read_text(), format_name=name if is_named else None)
    heard = listener.heard()

    assert (heard.format, heard.succeeded) == (name, True)
    assert heard.session_id
    assert heard.final_message
    assert any(isinstance(event, Message) for event in events)
    assert sum(event.output_tokens for event in events if isinstance(event, TokenUsage)) in (175, 191)


def test_plain_output_has_no_success_of_its_own() -> None:
    events, listener = hear("hello\n" * 30)

    assert (events, listener.heard().format, listener.heard().succeeded) == ([], "", None)


def test_a_report_among_the_first_lines_is_told_at_once() -> None:
    listener = Listener()
    line = '{"runfold": {"type": "file_written", "path": "a.py"}}'

    (event,) = listener.line(line.encode(), "stdout")

    assert isinstance(event, FileWritten)


def test_tests_that_the_program_counts_itself_are_not_counted_again() -> None:
    report = '{"runfold": {"type": "test_run_completed", "framework": "pytest", "passed": 3}}'

    events, _ = hear(f"{report}\n=== 3 passed in 0.1s ===\n")

    assert [event.passed for event in events if isinstance(event, TestRunCompleted)] == [3]


def test_a_known_model_has_a_price_with_its_source_and_an_unknown_one_has_none() -> None:
    pytest.importorskip("genai_prices")
    usage = TokenUsage(input_tokens=12_400, cache_read_tokens=11_000, output_tokens=175)

    known = priced(usage, model="gpt-5", provider="openai")
    unknown = priced(usage, model="fake-model", provider="openai")

    assert known.cost_micros == 4875
    assert (known.price_source or "").startswith("genai-prices ")
    assert (unknown.model, unknown.cost_micros, unknown.price_source) == ("fake-model", None, None)


@pytest.mark.slow
def test_the_price_table_is_loaded_only_when_there_is_something_to_price() -> None:
    pytest.importorskip("genai_prices")
    script = (
        "import sys; import runner.here, runner.worker; from runfold.events import TokenUsage\n"
        "from runner.prices import priced; print('genai_prices' in sys.modules)\n"
        "priced(TokenUsage(input_tokens=1), model='gpt-5', provider='openai'); print('genai_prices' in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True"]


def test_a_cost_that_the_agent_says_is_kept() -> None:
    said = TokenUsage(model="gpt-5", input_tokens=1, cost_micros=7)

    assert priced(said, model=None, provider=None).cost_micros == 7


@pytest.mark.parametrize(
    ("said_dollars", "in_all_micros"),
    # Five messages of 1,000 tokens in and 1 out are reckoned at 3,015 each.
    [(0.05, 50_000), (0.015075, 15_075), (0.001, 15_075)],
)
def test_what_an_agent_says_it_cost_includes_what_was_reckoned_before(said_dollars: float, in_all_micros: int) -> None:
    pytest.importorskip("genai_prices")
    messages = [
        {"id": f"m{number}", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 1_000, "output_tokens": 1}}
        for number in range(5)
    ]
    models = {"claude-sonnet-4-5-20250929": {"inputTokens": 5_000, "outputTokens": 500, "costUSD": said_dollars}}
    said: list[object] = [
        *({"type": "assistant", "message": {**message, "content": []}} for message in messages),
        {"type": "result", "is_error": False, "modelUsage": models, "total_cost_usd": said_dollars},
    ]

    events, _ = hear("\n".join(map(json.dumps, said)), format_name="claude")

    usages = [event for event in events if isinstance(event, TokenUsage)]
    assert [usage.semantics for usage in usages] == ["provisional"] * 5 + ["delta"]
    assert usages[0].cost_micros == 3_015
    assert sum(usage.cost_micros or 0 for usage in usages) == in_all_micros
    assert sum(usage.output_tokens for usage in usages) == 500


def test_a_pattern_matches_a_line_of_plain_output() -> None:
    _, listener = hear("work\nALL DONE now\n", pattern="^ALL DONE")

    completion = listener.heard().completion

    assert completion is not None
    assert (completion.rule, completion.line) == ("pattern", "ALL DONE now")


def test_for_an_agent_only_its_final_message_counts() -> None:
    (recording,) = RECORDINGS.rglob("codex/work.jsonl")
    text = recording.read_text()

    _, packing = hear(text, pattern="command_execution")
    _, message = hear(text, pattern="(?i)done")

    assert packing.heard().completion is None
    assert message.heard().completion is not None


def test_a_pattern_that_hangs_other_engines_is_quick_and_a_broken_one_is_named() -> None:
    assert searcher("(a+)+$")(b"a" * 100_000 + b"b") is None
    assert check_pattern("(a") != ""
    assert check_pattern("(a)") == ""

"""What a program prints is heard: its agent's format, its tests' counts, its cost, and the word that ends the loop."""

from pathlib import Path
from typing import Any

import pytest

from runfold.events import Event, FileWritten, Message, TestRunCompleted, TokenUsage, Unknown
from runner.listener import Listener
from runner.patterns import check_pattern, searcher
from runner.prices import priced
from runner.tested import results_in

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


@pytest.mark.parametrize(
    ("text", "framework", "counts"),
    [
        ("==== 3 passed, 1 failed, 2 skipped in 0.12s ====", "pytest", (3, 1, 2)),
        ("3 passed, 1 warning in 0.12s", "pytest", (3, 0, 0)),
        ("=== 2 errors in 1.00s ===", "pytest", (0, 2, 0)),
        ("\x1b[32m===== \x1b[1m5 passed\x1b[0m in 61.00s (0:01:01) =====\x1b[0m", "pytest", (5, 0, 0)),
        ("Ran 5 tests in 0.010s\n\nFAILED (failures=1, errors=1, skipped=1)", "unittest", (2, 2, 1)),
        ("Ran 1 test in 0.000s\n\nOK", "unittest", (1, 0, 0)),
        ("Tests:       1 failed, 2 skipped, 4 passed, 7 total", "jest", (4, 1, 2)),
        ("      Tests  1 failed | 4 passed (5)", "vitest", (4, 1, 0)),
        ("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s\n"
         "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", "cargo test", (6, 2, 1)),
        ("ok  \tex.org/a\t0.003s\nFAIL\tex.org/b\t0.1s", "go test", (1, 1, 0)),
        ("--- PASS: TestA (0.00s)\n--- PASS: TestB (0.00s)\n--- SKIP: TestC (0.00s)\nok  \tex.org/a\t0.003s", "go test",
         (2, 0, 1)),
    ],
)  # fmt: skip
def test_closing_lines_of_test_runners_are_counted(text: str, framework: str, counts: tuple[int, int, int]) -> None:
    found = results_in(text)

    assert found is not None
    assert (found.framework, (found.passed, found.failed, found.skipped)) == (framework, counts)


@pytest.mark.parametrize(
    "text", ["I passed 3 tests in 2s", "OK", "FAILED", "ok 3 passed", "Tests are fun", "=== 3 apples ==="]
)
def test_words_that_only_look_like_results_are_not_counted(text: str) -> None:
    assert results_in(text) is None


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


def test_a_cost_that_the_agent_says_is_kept() -> None:
    said = TokenUsage(model="gpt-5", input_tokens=1, cost_micros=7)

    assert priced(said, model=None, provider=None).cost_micros == 7


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

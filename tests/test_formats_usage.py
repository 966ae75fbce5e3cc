"""What an agent spent is counted once, however its print counts it."""

import json

import pytest

from runfold.events import TokenUsage
from runner.formats.choosing import parser_of
from runner.formats.usage import counted_of
from tests.printed import assistant, of_objects, parse, replay, result, totals


def codex_usage(thread: str, tokens: int) -> list[dict[str, object]]:
    usage = {"input_tokens": tokens, "cached_input_tokens": tokens // 2, "output_tokens": tokens // 10}
    return [{"type": "thread.started", "thread_id": thread}, {"type": "turn.completed", "usage": usage}]


@pytest.mark.parametrize(
    ("agent", "expected", "cost"),
    [
        ("codex", (12400, 11000, 175, 16), None),
        ("claude", (12400, 11000, 175, 0), 10125),
        ("gemini", (12400, 11000, 191, 16), None),
        ("opencode", (12400, 11000, 175, 16), 2850),
    ],
)
def test_every_agent_counts_the_same_work_alike(
    agent: str, expected: tuple[int, int, int, int], cost: int | None
) -> None:
    _, events = replay(f"{agent}/work")

    costs = [event.cost_micros for event in events if isinstance(event, TokenUsage) and event.cost_micros is not None]
    assert totals(events) == expected
    assert (sum(costs) if costs else None) == cost


def test_a_continued_thread_counts_only_what_the_next_turn_spent() -> None:
    first, events = of_objects("codex", *codex_usage("t", 1200))
    second = parser_of("codex", counted=first.counted)
    other = parser_of("codex", counted=counted_of(event for event in events if isinstance(event, TokenUsage)))

    for parser in (second, other):
        more = parse(parser, [json.dumps(found) for found in codex_usage("t", 2400)])

        assert totals(more) == (1200, 600, 120, 0)


def test_another_thread_is_counted_from_zero() -> None:
    first, _ = of_objects("codex", *codex_usage("t", 1200))

    more = parse(parser_of("codex", counted=first.counted), [json.dumps(found) for found in codex_usage("u", 100)])

    assert totals(more) == (100, 50, 10, 0)


def test_a_counter_that_falls_back_is_counted_neither_twice_nor_below_zero() -> None:
    _, events = of_objects("codex", *codex_usage("t", 1200), *codex_usage("t", 800), *codex_usage("t", 1300))

    assert totals(events) == (1300, 650, 130, 0)


def test_a_message_that_claude_prints_twice_counts_once() -> None:
    _, events = of_objects("claude", assistant("a", 10), assistant("a", 10), assistant("b", 5))

    assert totals(events) == (15, 0, 2, 0)
    assert {event.semantics for event in events if isinstance(event, TokenUsage)} == {"provisional"}


def test_the_result_adds_only_what_no_message_has_counted() -> None:
    models = {
        "m": {"inputTokens": 10, "outputTokens": 40, "costUSD": 0.5},
        "small": {"inputTokens": 7, "outputTokens": 3, "costUSD": 0.25},
    }
    _, events = of_objects("claude", assistant("a", 10), result(modelUsage=models))

    closing = [event for event in events if isinstance(event, TokenUsage) and event.semantics == "delta"]
    assert totals(events) == (17, 0, 43, 0)
    assert [(event.model, event.cost_micros) for event in closing] == [("m", 500_000), ("small", 250_000)]


def test_a_model_that_the_result_names_otherwise_is_not_counted_twice() -> None:
    models = {"m-20260101": {"inputTokens": 10, "outputTokens": 40}}
    _, events = of_objects("claude", assistant("a", 10, "m"), result(modelUsage=models))

    assert totals(events) == (10, 0, 40, 0)


def test_the_result_of_an_older_claude_has_its_totals_in_usage() -> None:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 4}
    _, events = of_objects("claude", assistant("a", 10), result(usage=usage, total_cost_usd=0.001))

    assert totals(events) == (100, 90, 4, 0)

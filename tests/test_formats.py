"""What real agents printed becomes the same events every time, and says truly how the turn ended and what it cost."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runfold.errors import BadRequest
from runfold.events import (
    AgentError,
    CommandExecuted,
    Event,
    Failure,
    FileDeleted,
    FileRead,
    FileWritten,
    Message,
    PlanUpdated,
    Reasoning,
    Telemetry,
    TelemetryRejected,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    Unknown,
    encode_data,
    event_type,
)
from runner.formats.choosing import FORMATS, format_of, parser_of, recognise
from runner.formats.contract import Parser
from runner.formats.usage import counted_of

RECORDINGS = Path(__file__).parent / "recordings"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
OURS = sorted(path for path in RECORDINGS.glob("*/*.jsonl") if "." not in path.stem)


def recording(name: str) -> Path:
    """A recording of the project's own, or one that stays outside of it because others wrote its words."""
    path = RECORDINGS / f"{name}.jsonl"
    if not path.exists():
        path = SHARED / "captured" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"`{name}` is recorded outside of the project, and that folder is absent here")
    return path


def parse(parser: Parser, lines: Sequence[str]) -> list[Event | Unknown]:
    return [*(event for line in lines for event in parser.line(line)), *parser.end()]


def replay(name: str) -> tuple[Parser, list[Event | Unknown]]:
    lines = recording(name).read_text().splitlines(keepends=True)
    parser = parser_of(recognise(lines))
    return parser, parse(parser, lines)


def of_objects(name: str, *objects: object) -> tuple[Parser, list[Event | Unknown]]:
    parser = parser_of(name)
    return parser, parse(parser, [json.dumps(found) for found in objects])


def totals(events: Sequence[Event | Unknown]) -> tuple[int, int, int, int]:
    usages = [event for event in events if isinstance(event, TokenUsage)]
    return (
        sum(usage.input_tokens for usage in usages),
        sum(usage.cache_read_tokens for usage in usages),
        sum(usage.output_tokens for usage in usages),
        sum(usage.reasoning_tokens for usage in usages),
    )


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recording_becomes_exactly_the_events_that_are_kept_beside_it(path: Path) -> None:
    golden = path.with_suffix(".events.jsonl")
    _, events = replay(f"{path.parent.name}/{path.stem}")

    lines = [f'{{"type":"{event_type(event)}","data":{encode_data(event).decode()}}}\n' for event in events]

    if os.environ.get("RUNFOLD_GOLDEN") == "write":
        golden.write_text("".join(lines))
    assert "".join(lines) == golden.read_text()


def test_every_own_recording_is_there() -> None:
    assert len(OURS) == 12


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


@pytest.mark.parametrize("agent", ["codex", "claude", "gemini", "opencode"])
def test_the_same_work_is_told_alike(agent: str) -> None:
    parser, events = replay(f"{agent}/work")

    commands = [event for event in events if isinstance(event, CommandExecuted)]
    called = [event.call_id for event in events if isinstance(event, ToolCalled)]
    returned = [event.call_id for event in events if isinstance(event, ToolReturned)]
    failing = commands[-1]
    assert failing.output_tail.rstrip() == "3 passed, 1 failed"
    assert (failing.exit_code, failing.status) == ((None, "completed") if agent == "gemini" else (1, "failed"))
    assert [event.path.removeprefix("/ws/") for event in events if isinstance(event, FileWritten)] == ["notes.md"]
    assert sorted(called) == sorted(returned)
    assert len(called) == 4
    assert parser.final_message == "Done: wrote notes.md.\n\nALL TASKS COMPLETE"
    assert parser.session_id
    assert (parser.model is not None) == format_of(agent).prints_model


def test_claudes_work_is_told_in_order() -> None:
    _, events = replay("claude/work")

    told = [event for event in events if not isinstance(event, TokenUsage)]
    assert [event_type(event) for event in told] == [
        "message",
        *("tool_called", "command_executed", "tool_returned"),
        *("tool_called", "file_written", "tool_returned"),
        *("tool_called", "file_read", "tool_returned"),
        *("tool_called", "command_executed", "tool_returned"),
        "message",
    ]
    assert told[5] == FileWritten(path="notes.md", bytes=35, kind="add")
    assert told[8] == FileRead(path="notes.md")


# How a turn ended: the recording, what the format says, whether trying again may help, a word of the error.
ENDINGS = [
    ("codex/hello", True, None, ""),
    ("codex/slow", True, None, ""),
    ("codex/work", True, None, ""),
    ("codex/auth_error", False, Failure(type="dependency", code="DEP_API_REFUSED"), "401"),
    ("codex/server_error", False, Failure(type="dependency", code="DEP_API_UNAVAILABLE", retryable=True), "demand"),
    ("codex/context_overflow", False, Failure(type="agent", code="TURN_FAILED"), "context window"),
    ("codex/sigterm_hang", None, None, ""),
    ("codex/sigterm_longcmd", None, None, ""),
    ("claude/hello", True, None, ""),
    ("claude/work", True, None, ""),
    ("claude/auth_error", False, Failure(type="dependency", code="DEP_API_REFUSED"), "401"),
    ("claude/server_error", False, Failure(type="dependency", code="DEP_API_UNAVAILABLE", retryable=True), "500"),
    # Claude answers SIGTERM with success: only the driver's own record says that it was cancelled.
    ("claude/sigterm_longcmd", True, None, ""),
    ("gemini/hello", True, None, ""),
    ("gemini/work", True, None, ""),
    ("opencode/hello", True, None, ""),
    ("opencode/work", True, None, ""),
]


@pytest.mark.parametrize(("name", "succeeded", "failure", "word"), ENDINGS, ids=[row[0] for row in ENDINGS])
def test_an_observed_ending_is_understood(
    name: str, succeeded: bool | None, failure: Failure | None, word: str
) -> None:
    parser, events = replay(name)

    assert parser.succeeded is succeeded
    if failure is None:
        assert parser.error is None
        return
    assert parser.error is not None
    assert (parser.error.type, parser.error.code, parser.error.retryable) == (
        failure.type,
        failure.code,
        failure.retryable,
    )
    assert word in parser.error.message
    last = [event for event in events if isinstance(event, AgentError)][-1]
    assert last.code == (failure.code if failure.type == "dependency" else None)
    assert [event.message for event in events if isinstance(event, AgentError)].count(parser.error.message) == 1


def result(**fields: object) -> dict[str, object]:
    return {"type": "result", "subtype": "success", "is_error": False, "session_id": "s", **fields}


@pytest.mark.parametrize(
    ("name", "line", "code"),
    [
        ("claude", result(subtype="error_during_execution", is_error=True, errors=["boom"]), "TURN_FAILED"),
        ("claude", result(subtype="error_max_turns"), "TURN_FAILED"),
        ("claude", result(is_error=True, result="no", api_error_status=529), "DEP_API_UNAVAILABLE"),
        (
            "codex",
            {"type": "turn.failed", "error": {"message": "exceeded retry limit, last status: 429 Too Many Requests"}},
            "DEP_API_UNAVAILABLE",
        ),
        (
            "codex",
            {"type": "turn.failed", "error": {"message": "stream disconnected before completion: x"}},
            "DEP_API_UNAVAILABLE",
        ),
        ("codex", {"type": "turn.completed", "status": "failed", "error": {"message": "turn failed"}}, "TURN_FAILED"),
        ("codex", {"type": "turn.failed"}, "TURN_FAILED"),
        (
            "gemini",
            {"type": "result", "status": "error", "error": {"message": "[API Error: 401 no]"}},
            "DEP_API_REFUSED",
        ),
        (
            "opencode",
            {
                "type": "error",
                "sessionID": "s",
                "error": {"name": "APIError", "data": {"message": "no", "statusCode": 401}},
            },
            "DEP_API_REFUSED",
        ),
        ("opencode", {"type": "step_finish", "sessionID": "s", "part": {"reason": "length"}}, "TURN_FAILED"),
    ],
)
def test_an_ending_that_is_no_success_is_a_failure_with_its_reason(name: str, line: object, code: str) -> None:
    parser, events = of_objects(name, line)

    assert parser.succeeded is False
    assert parser.error is not None
    assert parser.error.code == code
    assert parser.error.message
    assert any(isinstance(event, AgentError) for event in events)


def test_a_retry_notice_is_no_failure() -> None:
    parser, events = of_objects(
        "codex", {"type": "error", "message": "Reconnecting... 1/5 (stream disconnected)"}, {"type": "turn.completed"}
    )

    assert events == [AgentError(message="Reconnecting... 1/5 (stream disconnected)", retryable=True)]
    assert parser.succeeded is True


def test_a_step_of_opencode_that_goes_on_with_tools_is_not_the_end() -> None:
    lines = recording("opencode/work").read_text().splitlines()
    parser = parser_of("opencode")

    parse(parser, lines[:-1])

    assert parser.succeeded is None


def test_a_tool_that_never_returned_is_closed_when_the_output_ends() -> None:
    _, events = replay("codex/sigterm_longcmd")

    assert events[-1] == ToolReturned(call_id="item_1", tool="shell", status="interrupted")


def codex_usage(thread: str, tokens: int) -> list[dict[str, object]]:
    usage = {"input_tokens": tokens, "cached_input_tokens": tokens // 2, "output_tokens": tokens // 10}
    return [{"type": "thread.started", "thread_id": thread}, {"type": "turn.completed", "usage": usage}]


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


def assistant(message_id: str, tokens: int, model: str = "m", **more: object) -> dict[str, object]:
    message: dict[str, Any] = {
        "id": message_id,
        "model": model,
        "content": [],
        "usage": {"input_tokens": tokens, "output_tokens": 1},
    }
    return {"type": "assistant", "message": message, **more}


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


def test_what_a_subagent_says_is_marked_and_is_not_the_last_word() -> None:
    def says(text: str, **more: object) -> dict[str, object]:
        return {"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}, **more}

    parser, events = of_objects("claude", says("mine"), says("its", parent_tool_use_id="toolu_1"))

    assert events == [Message(text="mine"), Message(text="its", source="subagent")]
    assert parser.final_message == "mine"


def tool_use(call_id: str, name: str, **given: object) -> dict[str, object]:
    return {
        "type": "assistant",
        "message": {"content": [{"type": "tool_use", "id": call_id, "name": name, "input": given}]},
    }


def tool_result(call_id: str, content: object, details: object = None, **more: object) -> dict[str, object]:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}
    return {"type": "user", "message": {"content": [block]}, "tool_use_result": details}


def test_claudes_tasks_are_a_plan_that_is_kept_up_to_date() -> None:
    _, events = of_objects(
        "claude",
        tool_use("1", "TaskCreate", subject="write"),
        tool_result("1", "Task #1 created", {"task": {"id": "1", "subject": "write"}}),
        tool_use("2", "TaskCreate", subject="test"),
        tool_result("2", [{"type": "text", "text": "Task #2 created"}]),
        tool_use("3", "TaskUpdate", taskId="1", status="completed"),
        tool_result("3", "Updated task #1"),
    )

    plans = [event for event in events if isinstance(event, PlanUpdated)]
    assert plans[-1].items == ({"text": "write", "status": "completed"}, {"text": "test", "status": "pending"})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("claude", tool_use("1", "TodoWrite", todos=[{"content": "a", "status": "in_progress"}, {"content": "b"}])),
        (
            "gemini",
            {
                "type": "tool_use",
                "tool_name": "write_todos",
                "tool_id": "1",
                "parameters": {"todos": [{"description": "a", "status": "in_progress"}, {"description": "b"}]},
            },
        ),
        (
            "opencode",
            {
                "type": "tool_use",
                "sessionID": "s",
                "part": {
                    "tool": "todowrite",
                    "callID": "1",
                    "state": {
                        "status": "completed",
                        "input": {"todos": [{"content": "a", "status": "in_progress"}, {"content": "b"}]},
                    },
                },
            },
        ),
        (
            "codex",
            {
                "type": "item.updated",
                "item": {"type": "todo_list", "items": [{"text": "a", "status": "in_progress"}, {"text": "b"}]},
            },
        ),
    ],
)
def test_a_todo_list_of_any_agent_is_a_plan(name: str, line: object) -> None:
    _, events = of_objects(name, line)

    assert PlanUpdated(items=({"text": "a", "status": "in_progress"}, {"text": "b", "status": "pending"})) in events


def test_a_command_that_claude_was_not_allowed_to_run_was_not_executed() -> None:
    _, events = of_objects(
        "claude", tool_use("1", "Bash", command="rm -rf /"), tool_result("1", "permission denied", is_error=True)
    )

    assert not any(isinstance(event, CommandExecuted) for event in events)
    assert events[-1] == ToolReturned(call_id="1", tool="Bash", result="permission denied", status="failed")


def test_a_file_that_could_not_be_written_was_not_written() -> None:
    _, events = of_objects(
        "claude", tool_use("1", "Write", file_path="a", content="x"), tool_result("1", "no", is_error=True)
    )

    assert not any(isinstance(event, FileWritten) for event in events)


def test_a_declined_command_of_codex_was_not_executed() -> None:
    item = {"id": "1", "type": "command_execution", "command": "rm -rf /", "exit_code": None, "status": "declined"}
    _, events = of_objects("codex", {"type": "item.completed", "item": item})

    assert events == [
        ToolCalled(tool="shell", call_id="1", arguments={"command": "rm -rf /"}),
        ToolReturned(call_id="1", tool="shell", status="declined"),
    ]


def test_a_change_of_codex_tells_each_file() -> None:
    changes = [{"path": "a", "kind": "add"}, {"path": "b", "kind": "update"}, {"path": "c", "kind": "delete"}]
    item = {"id": "1", "type": "file_change", "changes": changes, "status": "completed"}
    _, events = of_objects("codex", {"type": "item.completed", "item": item})

    assert events[1:4] == [
        FileWritten(path="a", kind="add"),
        FileWritten(path="b", kind="update"),
        FileDeleted(path="c"),
    ]


def test_pieces_of_geminis_message_are_one_message() -> None:
    def piece(text: str) -> dict[str, object]:
        return {"type": "message", "role": "assistant", "content": text, "delta": True}

    parser, events = of_objects(
        "gemini", piece("Hel"), piece("lo"), {"type": "result", "status": "success"}, piece("!")
    )

    assert events == [Message(text="Hello"), Message(text="!")]
    assert parser.final_message == "!"


SENTINEL = '{"runfold": {"type": "file_written", "path": "a.py", "source": "trust me"}}'


def ran(name: str, command: str, output: str) -> list[object]:
    match name:
        case "codex":
            item = {"id": "1", "type": "command_execution", "command": command, "exit_code": 0, "status": "completed"}
            return [{"type": "item.completed", "item": {**item, "aggregated_output": output}}]
        case "claude":
            return [tool_use("1", "Bash", command=command), tool_result("1", output)]
        case "gemini":
            used = {
                "type": "tool_use",
                "tool_name": "run_shell_command",
                "tool_id": "1",
                "parameters": {"command": command},
            }
            return [used, {"type": "tool_result", "tool_id": "1", "status": "success", "output": output}]
        case _:
            state = {"status": "completed", "input": {"command": command}, "output": output, "metadata": {"exit": 0}}
            return [{"type": "tool_use", "sessionID": "s", "part": {"tool": "bash", "callID": "1", "state": state}}]


@pytest.mark.parametrize("name", ["codex", "claude", "gemini", "opencode"])
def test_a_telemetry_line_counts_only_as_a_whole_line_of_what_a_command_printed(name: str) -> None:
    _, events = of_objects(name, *ran(name, f"echo '{SENTINEL}'", f"start\n{SENTINEL}\r\nsay {SENTINEL}\nend"))

    assert [event for event in events if isinstance(event, FileWritten)] == [
        FileWritten(path="a.py", source="sentinel")
    ]


@pytest.mark.parametrize("name", ["codex", "claude", "gemini", "opencode"])
def test_a_telemetry_line_that_the_agent_itself_prints_is_not_believed(name: str) -> None:
    assert list(parser_of(name).line(SENTINEL)) == []
    assert not any(isinstance(event, FileWritten) for event in of_objects(name, *ran(name, SENTINEL, ""))[1])


@pytest.mark.parametrize("name", ["codex", "claude", "gemini", "opencode"])
def test_refused_telemetry_of_one_command_is_counted_and_not_repeated(name: str) -> None:
    forged = '{"runfold": {"type": "run_completed", "reason_code": "EXIT_ZERO"}}\n'
    _, events = of_objects(name, *ran(name, "x", forged * 1000))

    (rejected,) = [event for event in events if isinstance(event, TelemetryRejected)]
    assert rejected.count == 1000


def test_a_telemetry_line_of_a_plain_program_is_an_event_and_other_lines_are_output() -> None:
    parser = parser_of("plain")

    assert parse(parser, ["hello\n", SENTINEL + "\n", "{", '{"type":"turn.failed"}']) == [
        FileWritten(path="a.py", source="sentinel")
    ]
    assert parser.succeeded is None
    assert not format_of("plain").says_end


def test_a_kind_of_line_that_nobody_knows_is_told_once() -> None:
    _, events = of_objects("codex", *({"type": "Brand.New", "n": n} for n in range(100)))

    assert events == [Telemetry(name="codex_brand_new", data={"type": "Brand.New", "n": 0})]


def test_reasoning_is_told() -> None:
    _, events = replay("codex/work")

    assert Reasoning(text="Look around first.") in events


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_format_is_recognised_below_other_lines(path: Path) -> None:
    lines = ["Warning: terminal\n", "\n", "[1, 2]\n", *path.read_text().splitlines()]

    assert recognise(lines) == path.parent.name


@pytest.mark.parametrize("lines", [[], ["hello"], ["{}"], ['{"type": "init"}'], ['{"type": "text", "text": "x"}']])
def test_what_is_no_agents_output_is_plain(lines: list[str]) -> None:
    assert recognise(lines) == "plain"


def test_claude_is_recognised() -> None:
    assert recognise(recording("claude/hello").read_text().splitlines()) == "claude"


def test_a_format_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadRequest) as caught:
        parser_of("aider")

    assert "`aider`" in caught.value.message
    assert all(known.name in caught.value.hint for known in FORMATS)


@pytest.mark.parametrize(
    ("name", "argv", "expected"),
    [
        ("codex", "codex exec --json -s read-only", "codex exec --json -s read-only resume ID"),
        ("codex", "codex exec --json fix", "codex exec --json resume ID fix"),
        ("codex", "codex exec --json -m gpt-5", "codex exec --json -m gpt-5 resume ID"),
        ("codex", "codex exec --json -", "codex exec --json resume ID -"),
        ("codex", "npx @openai/codex@0.169 exec --json", "npx @openai/codex@0.169 exec --json resume ID"),
        ("codex", "codex exec --json resume OLD fix", "codex exec --json resume ID fix"),
        ("codex", "codex login", None),
        ("claude", "/usr/bin/claude -p fix", "/usr/bin/claude --resume ID -p fix"),
        ("claude", "env A=1 claude -c -p fix", "env A=1 claude --resume ID -p fix"),
        ("claude", "sh agent.sh", None),
        ("gemini", "gemini -r latest -p fix", "gemini --resume ID -p fix"),
        ("opencode", "opencode run --format json fix", "opencode run --session ID --format json fix"),
        ("opencode", "opencode run -s OLD fix", "opencode run --session ID fix"),
        ("plain", "make test", None),
    ],
)
def test_a_command_goes_on_with_its_session(name: str, argv: str, expected: str | None) -> None:
    found = format_of(name).resume_argv(argv.split(), "ID")

    assert (None if found is None else " ".join(found)) == expected
    if found is not None:
        assert format_of(name).resume_argv(found, "ID") == found


@pytest.mark.parametrize("session_id", ["", "--dangerously-skip-permissions"])
def test_a_session_that_reads_as_an_option_is_not_resumed(session_id: str) -> None:
    assert format_of("claude").resume_argv(["claude", "-p"], session_id) is None

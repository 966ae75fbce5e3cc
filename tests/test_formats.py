"""What real agents printed becomes the same events every time, and says truly how the turn ended and what it cost."""

import os
from pathlib import Path

import pytest

from runfold.errors import BadRequest
from runfold.events import (
    AgentError,
    CommandExecuted,
    Failure,
    FileRead,
    FileWritten,
    Message,
    Reasoning,
    Telemetry,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    encode_data,
    event_type,
)
from runner.formats.choosing import FORMATS, format_of, parser_of, recognise
from tests.printed import OURS, of_objects, parse, recording, replay, result


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


def test_what_a_subagent_says_is_marked_and_is_not_the_last_word() -> None:
    def says(text: str, **more: object) -> dict[str, object]:
        return {"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}, **more}

    parser, events = of_objects("claude", says("mine"), says("its", parent_tool_use_id="toolu_1"))

    assert events == [Message(text="mine"), Message(text="its", source="subagent")]
    assert parser.final_message == "mine"


def test_pieces_of_geminis_message_are_one_message() -> None:
    def piece(text: str) -> dict[str, object]:
        return {"type": "message", "role": "assistant", "content": text, "delta": True}

    parser, events = of_objects(
        "gemini", piece("Hel"), piece("lo"), {"type": "result", "status": "success"}, piece("!")
    )

    assert events == [Message(text="Hello"), Message(text="!")]
    assert parser.final_message == "!"


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

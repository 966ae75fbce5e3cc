"""Factory Droid's `--output-format stream-json` lines."""

from collections.abc import Sequence

from runner.imports.story import Story
from runner.imports.values import Map, get, text

FORMAT = "droid-stream"
_KINDS = frozenset({"message", "tool_call", "tool_result", "completion"})


def is_one(head: Sequence[Map]) -> bool:
    # Gemini's lines have the same types, but say `content` and `tool_id`.
    return any(
        text(record, "type") in _KINDS
        and "session_id" in record
        and any(key in record for key in ("text", "toolCallId", "finalText"))
        for record in head
    )


class DroidStream:
    def __init__(self, story: Story) -> None:
        self._story = story

    def record(self, record: Map) -> None:
        story = self._story
        story.at(record.get("timestamp"))
        if not story.identity and (session := text(record, "session_id")):
            story.session, story.identity, story.workflow = session, f"droid:{session}", "droid"
        match text(record, "type"):
            case "system":
                story.model, story.cwd = text(record, "model") or None, text(record, "cwd") or None
            case "message" if text(record, "role") == "user":
                story.start_turn()
                story.message("user", text(record, "text"))
            case "message":
                story.message("assistant", text(record, "text"))
            case "reasoning":
                story.reasoning(text(record, "text"))
            case "tool_call":
                story.call(text(record, "toolCallId"), text(record, "toolName"), record.get("parameters"))
            case "tool_result":
                self._result(record)
            case "error":
                story.failed(text(record, "message") or "the session ended with an error")
            case "completion":
                story.message("assistant", text(record, "finalText"))
                story.completed("completion")
            case kind:
                story.unknown_record(kind, record)

    def end(self) -> None:
        self._story.finish()

    def _result(self, record: Map) -> None:
        value = record.get("value")
        code = get(value, "exitCode")
        exit_code = code if isinstance(code, int) and abs(code) < 2**31 else None
        output = value if isinstance(value, str) else text(value, "stdout") + text(value, "stderr")
        failed = record.get("isError") is True or exit_code not in (None, 0)
        self._story.result(text(record, "toolCallId"), output or value, failed=failed, exit_code=exit_code)

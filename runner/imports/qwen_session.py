"""Qwen Code's session files: Claude's envelope round Gemini's parts."""

from collections.abc import Sequence

from runner.imports.story import Story, Usage
from runner.imports.values import Map, count, get, items, mapping, text

FORMAT = "qwen-session"


def is_one(head: Sequence[Map]) -> bool:
    return any("sessionId" in record and isinstance(get(record, "message", "parts"), list) for record in head)


class QwenSession:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._answered = False

    def record(self, record: Map) -> None:
        story = self._story
        story.at(record.get("timestamp"))
        if not story.identity and (session := text(record, "sessionId")):
            story.session, story.identity, story.workflow = session, f"qwen:{session}", "qwen"
            story.cwd = text(record, "cwd") or None
            story.labels["agent_version"] = text(record, "version")
        match text(record, "type"):
            case "user" if text(record, "subtype") == "":
                self._answered = False
                story.start_turn()
                # What hooks add for the model follows the person's own words.
                story.message("user", text(record, "systemPayload", "displayText") or self._words(record))
            case "assistant":
                story.model = text(record, "model") or story.model
                for part in items(record, "message", "parts"):
                    self._part(part)
                self._usage(mapping(record, "usageMetadata"))
            case "tool_result":
                self._result(record)
            case kind:
                story.unknown_record(kind, record)

    def end(self) -> None:
        if self._answered and not self._story.has_open_call:
            self._story.completed("final answer")
        self._story.finish()

    def _words(self, record: Map) -> str:
        return next((words for part in items(record, "message", "parts") if (words := text(part, "text"))), "")

    def _part(self, part: object) -> None:
        story = self._story
        if call := mapping(part, "functionCall"):
            self._answered = False
            story.call(text(call, "id"), text(call, "name"), call.get("args"))
        elif get(part, "thought") is True:
            story.reasoning(text(part, "text"))
        elif words := text(part, "text"):
            self._answered = True
            story.message("assistant", words)

    def _result(self, record: Map) -> None:
        status = text(record, "toolCallResult", "status")
        for part in items(record, "message", "parts"):
            response = mapping(part, "functionResponse")
            output = text(response, "response", "output") or text(response, "response", "error")
            self._story.result(text(response, "id"), output or None, failed=status not in ("success", ""))

    def _usage(self, counts: Map) -> None:
        thoughts = count(counts, "thoughtsTokenCount")
        used = Usage(
            input_tokens=count(counts, "promptTokenCount"),
            cache_read_tokens=count(counts, "cachedContentTokenCount"),
            output_tokens=count(counts, "candidatesTokenCount") + thoughts,
            reasoning_tokens=thoughts,
        )
        self._story.usage(used)

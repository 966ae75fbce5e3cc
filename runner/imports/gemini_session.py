"""Gemini CLI's own session files: one JSON document, or (since 0.5x) lines that repeat a message when it grows."""

from collections import OrderedDict
from collections.abc import Sequence

from runner.imports.story import Story, Usage, joined
from runner.imports.values import Map, count, get, items, mapping, moment_us, text

FORMAT = "gemini-session"
SEEN_MAX = 10_000


def is_one(head: Sequence[Map]) -> bool:
    return bool(head) and "sessionId" in head[0] and "projectHash" in head[0]


class GeminiSession:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._seen: OrderedDict[str, Usage] = OrderedDict()
        self._answered = False
        self._cancelled = False

    def record(self, record: Map) -> None:
        story = self._story
        if "sessionId" in record:
            story.session = text(record, "sessionId")
            story.identity, story.workflow = f"gemini:{story.session}", "gemini"
            story.model = text(record, "meta", "model") or None
            story.at(record.get("startTime"))
            for message in items(record, "messages"):
                self._message(mapping(message))
        elif "$set" in record:
            for message in items(record, "$set", "messages"):
                self._message(mapping(message))
        elif "type" in record:
            self._message(record)
        else:
            story.unknown_record("record", record)

    def end(self) -> None:
        if self._cancelled:
            self._story.failed("the session's last request was cancelled", code="KILLED")
        elif self._answered and not self._story.has_open_call:
            self._story.completed("final answer")
        self._story.finish()

    def _message(self, message: Map) -> None:
        story, kind = self._story, text(message, "type")
        words = joined(message.get("content")) or joined(message.get("parts"))
        known = self._is_known(f"message {text(message, 'id')}", Usage())
        story.at(message.get("timestamp"))
        match kind:
            case "user":
                # Results come back as messages of the user, and the program's own introduction too.
                if words and not known and not words.startswith("<session_context>"):
                    self._answered = self._cancelled = False
                    story.start_turn()
                    story.message("user", words)
            case "gemini" | "model":
                self._answered = True
                if model := text(message, "model"):
                    story.model = model
                if not known:
                    self._thoughts(message)
                    story.message("assistant", words)
                self._usage(message)
                for call in items(message, "toolCalls"):
                    self._call(mapping(call))
            case "info" if words.startswith("Request cancelled"):
                self._cancelled = True
                story.end_turn(cancelled=True)
            case _:
                story.unknown_record(kind, message)

    def _is_known(self, key: str, usage: Usage) -> bool:
        known = key in self._seen
        self._seen[key] = usage
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return known

    def _thoughts(self, message: Map) -> None:
        for thought in items(message, "thoughts"):
            self._story.reasoning(text(thought, "description") or text(thought, "subject"))

    def _usage(self, message: Map) -> None:
        counts, key = mapping(message, "tokens"), f"usage {text(message, 'id')}"
        thoughts = count(counts, "thoughts")
        used = Usage(
            input_tokens=count(counts, "input") + count(counts, "tool"),
            cache_read_tokens=count(counts, "cached"),
            output_tokens=count(counts, "output") + thoughts,
            reasoning_tokens=thoughts,
        )
        before = self._seen.get(key, Usage())
        self._is_known(key, used)
        self._story.usage(used.beyond(before), provider="google")

    def _call(self, call: Map) -> None:
        story, call_id = self._story, text(call, "id")
        status = text(call, "status")
        if self._is_known(f"call {call_id} {status}", Usage()):
            return
        if status not in ("success", "error", "cancelled"):
            story.unknown_record("call", call)
            return
        story.call(call_id, text(call, "name"), call.get("args"))
        if moment_us(call.get("timestamp")):
            story.at(call.get("timestamp"))
        found = next((get(item, "functionResponse", "response") for item in items(call, "result")), None)
        output = text(found, "output") or text(found, "error") or text(call, "resultDisplay")
        ended = "interrupted" if status == "cancelled" else ""
        story.result(call_id, output or None, failed=status != "success", status=ended)

"""Kimi Code's wire log (`wire.jsonl`): it names no session, so the file's content does."""

from collections.abc import Sequence

from runner.imports.story import Story, Usage, joined
from runner.imports.values import Map, count, counted, get, items, mapping, text

FORMAT = "kimi-session"
_KINDS = frozenset({"turn.prompt", "context.append_message", "context.append_loop_event", "config.update"})
_KEPT_SILENT = frozenset(
    {"tools.set_active_tools", "llm.tools_snapshot", "llm.request", "permission.set_mode", "plugin.session_start",
     "runtime.set_binding", "token_counting.measured", "token_counting.turn_recorded"}
)  # fmt: skip


def is_one(head: Sequence[Map]) -> bool:
    return any(text(record, "type") in _KINDS and "time" in record for record in head)


class KimiSession:
    def __init__(self, story: Story) -> None:
        self._story = story
        story.workflow = "kimi"

    def record(self, record: Map) -> None:
        story = self._story
        story.at(record.get("time") or record.get("created_at"))
        match text(record, "type"):
            case "metadata":
                story.labels["protocol_version"] = text(record, "protocol_version")
            case "config.update" | "profile.bind":
                story.model = text(record, "modelAlias") or story.model
                story.cwd = text(record, "environmentDisclosure", "cwd") or story.cwd
            case "turn.prompt":
                story.ending = None
                story.start_turn()
                story.message("user", joined(record.get("input")))
            case "turn.steer":
                story.message("user", joined(record.get("input")))
            case "turn.cancel":
                story.end_turn(cancelled=True)
                story.failed("the turn was cancelled", code="KILLED")
            case "turn.ended":
                self._ended(record)
            case "context.append_message":
                message = mapping(record, "message")
                if text(message, "role") == "assistant":
                    self._answer(message)
            case "context.append_loop_event":
                self._loop(mapping(record, "event"), record)
            case kind if kind not in _KEPT_SILENT:
                story.unknown_record(kind, record)
            case _:
                pass

    def end(self) -> None:
        self._story.finish()

    def _ended(self, record: Map) -> None:
        story, reason = self._story, text(record, "reason")
        duration_ms = counted(record, "durationMs")
        if reason == "completed":
            story.end_turn(duration_ms=duration_ms)
            story.completed("turn.ended")
        else:
            story.end_turn(error=reason or "the turn ended", duration_ms=duration_ms)
            story.failed(f"the turn ended: {reason}")

    def _answer(self, message: Map) -> None:
        self._story.message("assistant", joined(message.get("content")))
        for call in items(message, "toolCalls"):
            name = text(call, "name") or text(call, "function", "name")
            self._story.call(text(call, "id"), name, get(call, "arguments"))

    def _loop(self, event: Map, record: Map) -> None:
        story = self._story
        match text(event, "type"):
            case "step.begin":
                pass
            case "content.part":
                if text(event, "part", "type") == "think":
                    story.reasoning(text(event, "part", "think"))
                else:
                    story.message("assistant", text(event, "part", "text"))
            case "tool.call":
                story.call(text(event, "toolCallId"), text(event, "name"), event.get("args"))
            case "tool.result":
                failed = get(event, "result", "isError") is True
                story.result(text(event, "toolCallId"), joined(get(event, "result", "output")) or None, failed=failed)
            case "step.end":
                self._usage(mapping(event, "usage"))
            case kind:
                story.unknown_record(f"loop.{kind}", record)

    def _usage(self, counts: Map) -> None:
        cache_read, cache_write = count(counts, "inputCacheRead"), count(counts, "inputCacheCreation")
        self._story.usage(
            Usage(
                input_tokens=count(counts, "inputOther") + cache_read + cache_write,
                cache_read_tokens=cache_read,
                cache_write_tokens=cache_write,
                output_tokens=count(counts, "output"),
            ),
            provider="moonshotai",
        )

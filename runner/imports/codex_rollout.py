"""Codex's own session files (`~/.codex/sessions/…/rollout-*.jsonl`), of every version seen since 0.50.

The file says much twice: `response_item` is what the model was sent and said, `event_msg` what the program saw of it.
Messages, reasoning and calls are taken from the first, commands, file changes, turns and tokens from the second.
"""

from collections.abc import Sequence

import msgspec

from runfold.events import AgentError, CommandExecuted, Event, FileDeleted, FileWritten
from runner.imports.story import Story, Usage, joined
from runner.imports.tools import OUTPUT_TAIL_CHARACTERS
from runner.imports.values import Map, count, counted, get, items, mapping, text

FORMAT = "codex-rollout"
_KINDS = frozenset({"session_meta", "response_item", "event_msg", "turn_context"})
_KEPT_SILENT = frozenset(
    {"world_state", "token_usage_record", "compacted", "inter_agent_communication_metadata", "thread_settings_applied",
     "context_compacted", "agent_message", "agent_reasoning", "user_message", "ghost_snapshot", "web_search_end",
     "mcp_tool_call_begin", "exec_command_begin", "patch_apply_begin", "exec_command_output_delta"}
)  # fmt: skip


def is_one(head: Sequence[Map]) -> bool:
    return any(text(record, "type") in _KINDS and isinstance(record.get("payload"), dict) for record in head)


class CodexRollout:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._total = Usage()

    def record(self, record: Map) -> None:
        story = self._story
        story.at(record.get("timestamp"))
        kind, payload = text(record, "type"), mapping(record, "payload")
        if kind == "session_meta":
            self._meta(payload)
        elif kind == "turn_context":
            story.model = text(payload, "model") or story.model
            story.cwd = story.cwd or text(payload, "cwd")
        elif kind == "response_item":
            self._item(text(payload, "type"), payload, record)
        elif kind == "event_msg":
            self._event(text(payload, "type"), payload, record)
        elif kind not in _KEPT_SILENT:
            story.unknown_record(kind, record)

    def end(self) -> None:
        self._story.finish()

    def _meta(self, payload: Map) -> None:
        # A session that goes on from another repeats its head: the first one names the file.
        if self._story.identity:
            return
        story = self._story
        story.session = text(payload, "id") or text(payload, "session_id") or None
        story.identity = f"codex:{story.session}" if story.session else ""
        story.cwd = text(payload, "cwd") or None
        story.workflow = "codex"
        if version := text(payload, "cli_version"):
            story.labels["agent_version"] = version

    def _item(self, kind: str, payload: Map, record: Map) -> None:
        story = self._story
        call_id = text(payload, "call_id") or text(payload, "id")
        match kind:
            case "message" | "agent_message":
                self._message(payload)
            case "reasoning":
                story.reasoning(joined(payload.get("summary")) or joined(payload.get("content")))
            case "function_call" | "custom_tool_call" | "local_shell_call" | "tool_search_call":
                raw = payload.get("arguments") or payload.get("input") or payload.get("action")
                tool = text(payload, "name") or kind.removesuffix("_call")
                story.call(call_id, tool, _parsed(raw))
            case "function_call_output" | "custom_tool_call_output" | "tool_search_output":
                output = payload.get("output")
                story.result(call_id, joined(output) or output)
            case "web_search_call" | "image_generation_call":
                story.call(call_id, kind.removesuffix("_call"), payload.get("action"))
                story.result(call_id, None, failed=text(payload, "status") == "failed")
            case _ if kind not in _KEPT_SILENT:
                story.unknown_record(kind, record)
            case _:
                pass

    def _message(self, payload: Map) -> None:
        role, words = text(payload, "role") or "assistant", joined(payload.get("content"))
        # What the program tells the model about itself is no part of the conversation.
        if role in ("user", "assistant") and not words.lstrip().startswith(("<environment_context>", "<user_instr")):
            self._story.message(role, words)

    def _event(self, kind: str, payload: Map, record: Map) -> None:
        story = self._story
        match kind:
            case "task_started" | "turn_started":
                story.start_turn()
                story.ending = None
            case "task_complete" | "turn_complete" | "turn.completed":
                self._turn_completed(payload)
            case "turn_aborted":
                story.end_turn(cancelled=True, duration_ms=counted(payload, "duration_ms"))
                story.failed(f"the turn was aborted: {text(payload, 'reason')}", code="KILLED")
            case "token_count":
                self._tokens(mapping(payload, "info"))
            case "item_completed":
                self._item_completed(mapping(payload, "item"), record)
            case "exec_command_end":
                self._command(text(payload, "call_id"), payload)
            case "patch_apply_end":
                story.told(text(payload, "call_id"), *_changes(payload))
            case "mcp_tool_call_end":
                call = mapping(payload, "invocation")
                story.call(text(payload, "call_id"), text(call, "tool"), call.get("arguments"))
                story.result(text(payload, "call_id"), payload.get("result"))
            case "error" | "stream_error":
                story.say(AgentError(message=text(payload, "message")))
            case _ if kind not in _KEPT_SILENT:
                story.unknown_record(kind, record)
            case _:
                pass

    def _turn_completed(self, payload: Map) -> None:
        story = self._story
        self._cumulative(_usage(mapping(payload, "usage")))
        if not story.turn_open:
            story.start_turn()
        error = text(payload, "error", "message")
        story.end_turn(error=error, duration_ms=counted(payload, "duration_ms"))
        if error:
            story.failed(error, kind="dependency" if get(payload, "error", "codex_error_info") else "agent")
        else:
            story.completed("task_complete")

    def _tokens(self, info: Map) -> None:
        if "prompt" in info or "completion" in info:
            self._story.usage(Usage(input_tokens=count(info, "prompt"), output_tokens=count(info, "completion")))
            return
        self._cumulative(_usage(mapping(info, "total_token_usage")))

    def _cumulative(self, total: Usage) -> None:
        """The counters run on over the whole thread and are repeated: only what they grow by is new."""
        self._story.usage(total.beyond(self._total))
        if total:
            self._total = total

    def _item_completed(self, item: Map, record: Map) -> None:
        match text(item, "type"):
            case "CommandExecution":
                self._command(text(item, "id"), item)
            case "FileChange":
                self._story.told(text(item, "id"), *_changes(item))
            case "UserMessage" | "AgentMessage" | "Reasoning" | "WebSearch" | "McpToolCall":
                pass  # Said by the response items.
            case name:
                self._story.unknown_record(f"item.{name}", record)

    def _command(self, call_id: str, item: Map) -> None:
        words = [word for word in items(item, "command") if isinstance(word, str)]
        code = get(item, "exit_code")
        self._story.told(
            call_id,
            CommandExecuted(
                command=words[-1] if len(words) == 3 else " ".join(words) or text(item, "command"),
                exit_code=code if isinstance(code, int) and abs(code) < 2**31 else None,
                status=text(item, "status") or "completed",
                output_tail=text(item, "aggregated_output")[-OUTPUT_TAIL_CHARACTERS:],
            ),
        )


def _usage(counts: Map) -> Usage:
    return Usage(
        input_tokens=count(counts, "input_tokens"),
        cache_read_tokens=count(counts, "cached_input_tokens"),
        cache_write_tokens=count(counts, "cache_write_input_tokens"),
        output_tokens=count(counts, "output_tokens"),
        reasoning_tokens=count(counts, "reasoning_output_tokens"),
    )


def _changes(item: Map) -> tuple[Event, ...]:
    if text(item, "status") == "failed" or item.get("success") is False:
        return ()
    changes = mapping(item, "changes")
    return tuple(
        FileDeleted(path=path)
        if text(change, "type") == "delete"
        else FileWritten(path=path, kind="move" if text(change, "move_path") else text(change, "type") or None)
        for path, change in changes.items()
    )


def _parsed(raw: object) -> object:
    """Arguments are JSON in a text; a text that is none stays what it is."""
    if not isinstance(raw, str) or not raw.lstrip().startswith(("{", "[")):
        return raw
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return raw

"""Copilot CLI's session events (`~/.copilot/session-state/…/events.jsonl`)."""

from collections.abc import Sequence

from runfold.events import AgentError, StepCompleted, StepStarted
from runner.imports.story import Story, Usage
from runner.imports.values import Map, count, counted, get, items, mapping, text

FORMAT = "copilot-session"
_FAMILIES = ("session.", "assistant.", "user.", "tool.")
_KEPT_SILENT = frozenset(
    {"session.info", "hook.start", "hook.end", "system.message", "session.auto_mode_resolved",
     "session.usage_checkpoint", "session.truncation"}
)  # fmt: skip


def is_one(head: Sequence[Map]) -> bool:
    return any(
        text(record, "type").startswith(_FAMILIES) and isinstance(record.get("data"), dict) and "parentId" in record
        for record in head
    )


class CopilotSession:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._output_tokens = 0
        self._open: set[str] = set()

    def record(self, record: Map) -> None:
        story, data = self._story, mapping(record, "data")
        story.at(record.get("timestamp"))
        match text(record, "type"):
            case "session.start":
                self._start(data)
            case "session.resume":
                story.ending = None
            case "session.model_change":
                story.model = text(data, "newModel") or story.model
            case "session.error":
                story.say(AgentError(message=text(data, "message"), error_type="dependency"))
            case "session.shutdown":
                self._shutdown(data)
            case "user.message":
                story.start_turn()
                story.message("user", text(data, "content"))
            case "assistant.turn_end":
                pass  # A turn here is one answer of the model; ours lasts until the person speaks again.
            case "assistant.message" | "assistant.reasoning" as kind:
                self._assistant(kind, data)
            case "tool.execution_start":
                self._call(text(data, "toolCallId"), text(data, "toolName"), data.get("arguments"))
            case "tool.execution_complete":
                self._result(data)
            case "subagent.started" | "subagent.completed" as kind:
                self._subagent(kind, data)
            case "abort":
                story.end_turn(cancelled=True)
                story.failed(f"aborted: {text(data, 'reason')}", code="KILLED")
            case kind if kind not in _KEPT_SILENT and kind != "assistant.turn_start":
                story.unknown_record(kind, record)
            case _:
                pass

    def end(self) -> None:
        self._story.finish()

    def _start(self, data: Map) -> None:
        story = self._story
        story.session = text(data, "sessionId") or None
        story.identity = f"copilot:{story.session}" if story.session else ""
        story.workflow = "copilot"
        story.model = text(data, "selectedModel") or None
        story.cwd = text(data, "context", "cwd") or None
        story.at(data.get("startTime"))
        story.labels["agent_version"] = text(data, "copilotVersion")

    def _assistant(self, kind: str, data: Map) -> None:
        story = self._story
        if kind == "assistant.reasoning":
            story.reasoning(text(data, "content"))
            return
        story.reasoning(text(data, "reasoningText"))
        role = "subagent" if text(data, "parentToolCallId") else "assistant"
        story.message(role, text(data, "content"))
        for request in items(data, "toolRequests"):
            self._call(text(request, "toolCallId"), text(request, "name"), get(request, "arguments"))
        output = count(data, "outputTokens")
        self._output_tokens += output
        story.usage(Usage(output_tokens=output), model=text(data, "model"), provider="github")

    def _call(self, call_id: str, tool: str, arguments: object) -> None:
        # A call is asked for in the answer, and starts in a record of its own.
        if call_id not in self._open:
            self._open.add(call_id)
            self._story.call(call_id, tool, arguments)

    def _result(self, data: Map) -> None:
        call_id = text(data, "toolCallId")
        self._open.discard(call_id)
        failed = data.get("success") is False
        self._story.result(
            call_id,
            text(data, "result", "content") or data.get("error"),
            failed=failed,
            duration_ms=counted(data, "toolTelemetry", "metrics", "durationMs"),
        )

    def _subagent(self, kind: str, data: Map) -> None:
        step = f"subagent-{text(data, 'toolCallId')}"[:200]
        if kind == "subagent.started":
            self._story.say(StepStarted(step=step, skill=text(data, "agentName") or "subagent"))
        else:
            self._story.say(StepCompleted(step=step, duration_ms=counted(data, "durationMs")))

    def _shutdown(self, data: Map) -> None:
        """The session's totals: what the answers have not counted is added."""
        story = self._story
        details = mapping(data, "tokenDetails")
        cache_read = count(details, "cache_read", "tokenCount")
        cache_write = count(details, "cache_write", "tokenCount")
        story.usage(
            Usage(
                input_tokens=count(details, "input", "tokenCount") + cache_read + cache_write,
                cache_read_tokens=cache_read,
                cache_write_tokens=cache_write,
                output_tokens=max(count(details, "output", "tokenCount") - self._output_tokens, 0),
            ),
            provider="github",
        )
        if text(data, "shutdownType") == "error":
            story.failed(text(data, "errorReason") or "the session ended with an error")
        else:
            story.completed(f"shutdown {text(data, 'shutdownType')}".strip())
            story.end_turn()

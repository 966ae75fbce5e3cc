"""Claude Code's own session files (`~/.claude/projects/…/SESSION.jsonl`), versions 1.0 to 2.1.

One answer of the model stands on as many lines as it has blocks, each with the same id and usage: counted once an id.
What a sub-agent did (`isSidechain`) is marked: its messages by the role, its usage by the session, and a step round it.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

from runfold.events import AgentError, PlanUpdated, StepCompleted, StepStarted, TurnRetrying
from runfold.events import Failure as EventFailure
from runner.imports.story import Story, Usage, joined
from runner.imports.values import Map, count, get, items, mapping, text

FORMAT = "claude-session"
MESSAGES_HELD_MAX = 10_000
SUBAGENT = "subagent"
_EXIT = re.compile(r"^(?:Error: )?Exit code (-?\d{1,5})\b")
_KEPT_SILENT = frozenset(
    {"queue-operation", "attachment", "last-prompt", "file-history-snapshot", "permission-mode", "mode", "progress",
     "agent-name", "started", "result", "bridge-session", "atis-latch", "worktree-state", "relocated", "frame-link"}
)  # fmt: skip


def is_one(head: Sequence[Map]) -> bool:
    return any(
        text(record, "type") in ("user", "assistant")
        and "sessionId" in record
        and get(record, "message", "content") is not None
        for record in head
    )


class ClaudeSession:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._counted: OrderedDict[str, Usage] = OrderedDict()
        self._subagent = 0
        self._in_subagent = False
        self._error = ""
        self._answered = False
        self._interrupted = False

    def record(self, record: Map) -> None:
        story = self._story
        story.at(record.get("timestamp"))
        self._head(record)
        kind = text(record, "type")
        if kind in ("user", "assistant"):
            self._switch(record.get("isSidechain") is True)
            (self._user if kind == "user" else self._assistant)(record, mapping(record, "message"))
        elif kind == "summary":
            story.title = story.title or text(record, "summary")
        elif kind in ("custom-title", "ai-title"):
            story.title = text(record, "title") or text(record, "customTitle") or text(record, "aiTitle") or story.title
        elif kind == "system":
            self._system(record)
        elif kind not in _KEPT_SILENT:
            story.unknown_record(kind, record)

    def end(self) -> None:
        self._switch(False)
        story = self._story
        if self._error:
            story.failed(self._error, kind="dependency")
        elif self._interrupted:
            story.failed("the session was interrupted by its user", code="KILLED")
        elif self._answered and not story.has_open_call:
            story.completed("end_turn")
        story.finish()

    def _head(self, record: Map) -> None:
        story = self._story
        if not story.identity and (session := text(record, "sessionId")):
            story.session, story.identity, story.workflow = session, f"claude:{session}", "claude"
        story.cwd = story.cwd or text(record, "cwd") or None
        if (version := text(record, "version")) and "agent_version" not in story.labels:
            story.labels["agent_version"] = version

    @property
    def _session(self) -> str | None:
        session = self._story.session
        return f"{session}/{SUBAGENT}-{self._subagent}" if self._in_subagent else session

    def _switch(self, into: bool) -> None:
        """Mark where a sub-agent begins to speak, and where the main agent goes on."""
        if into == self._in_subagent:
            return
        self._in_subagent = into
        if into:
            self._subagent += 1
            self._story.say(StepStarted(step=f"{SUBAGENT}-{self._subagent}", skill=SUBAGENT))
        else:
            self._story.say(StepCompleted(step=f"{SUBAGENT}-{self._subagent}"))

    def _role(self, role: str) -> str:
        return SUBAGENT if self._in_subagent and role == "assistant" else role

    def _user(self, record: Map, message: Map) -> None:
        story, content = self._story, message.get("content")
        results = [block for block in items(content) if text(block, "type") == "tool_result"]
        for block in results:
            self._result(block, record)
        words = "" if results else joined(content)
        if not words or record.get("isMeta") is True or self._in_subagent:
            return
        if words.startswith("[Request interrupted by user"):
            self._interrupted = True
            story.end_turn(cancelled=True)
            return
        self._answered, self._error, self._interrupted = False, "", False
        story.start_turn()
        story.message("user", words)

    def _result(self, block: object, record: Map) -> None:
        words = joined(get(block, "content"))
        failed = get(block, "is_error") is True
        exit_code = _EXIT.match(words)
        interrupted = get(record, "toolUseResult", "interrupted") is True
        self._answered = False
        self._story.result(
            text(block, "tool_use_id"),
            words,
            failed=failed,
            exit_code=int(exit_code[1]) if exit_code else None,
            status="interrupted" if interrupted else "",
        )

    def _assistant(self, record: Map, message: Map) -> None:
        story = self._story
        model = text(message, "model")
        synthetic = model == "<synthetic>"
        if model and not synthetic and story.model is None:
            story.model = model
        for block in items(message, "content"):
            self._block(block)
        if isinstance(message.get("content"), str):
            story.message(self._role("assistant"), text(message, "content"))
        if synthetic and (record.get("isApiErrorMessage") is True or text(record, "error")):
            self._error = joined(message.get("content")) or text(record, "error")
            story.say(AgentError(message=self._error, code=None, error_type="dependency"))
        elif not self._in_subagent:
            self._answered = text(message, "stop_reason") != "tool_use"
        self._usage(message, None if synthetic else model)

    def _block(self, block: object) -> None:
        story = self._story
        match text(block, "type"):
            case "text":
                story.message(self._role("assistant"), text(block, "text"))
            case "thinking":
                story.reasoning(text(block, "thinking"))
            case "tool_use" | "server_tool_use":
                story.call(text(block, "id"), text(block, "name"), get(block, "input"))
                if text(block, "name") == "TodoWrite":
                    story.say(PlanUpdated(items=tuple(items(block, "input", "todos"))))
            case kind:
                story.unknown_record(f"block.{kind}", mapping(block))

    def _usage(self, message: Map, model: str | None) -> None:
        counts = mapping(message, "usage")
        cache_read, cache_write = count(counts, "cache_read_input_tokens"), count(counts, "cache_creation_input_tokens")
        used = Usage(
            input_tokens=count(counts, "input_tokens") + cache_read + cache_write,
            cache_read_tokens=cache_read,
            cache_write_tokens=cache_write,
            output_tokens=count(counts, "output_tokens"),
        )
        identity = text(message, "id")
        before = self._counted.get(identity, Usage()) if identity else Usage()
        if identity:
            self._counted[identity] = used
            if len(self._counted) > MESSAGES_HELD_MAX:
                self._counted.popitem(last=False)
        self._story.usage(used.beyond(before), model=model, session=self._session, provider="anthropic")

    def _system(self, record: Map) -> None:
        story = self._story
        match text(record, "subtype"):
            case "api_error" | "api_retry":
                message = text(record, "error", "message") or text(record, "error", "formatted") or "the API failed"
                failure = EventFailure(type="dependency", message=message, retryable=True)
                story.say(TurnRetrying(turn=max(story.turn, 1), error=failure))
            case "error":
                story.say(AgentError(message=text(record, "error", "message") or "the session reports an error"))
            case "turn_duration" | "stop_hook_summary" | "session_start" | "compact_boundary" | "local_command":
                pass
            case kind:
                story.unknown_record(f"system.{kind}", record)

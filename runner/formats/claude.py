"""`claude -p --output-format stream-json --verbose`: content blocks, and a `result` with the true totals and the cost.

Each response's message is printed once a block with the same usage, so a message id counts once, as `provisional`;
`result` gives the difference. Success is its `is_error`, for its subtype says `success` also where the API failed.
"""

import re
from collections.abc import Mapping
from itertools import islice

import msgspec

from runfold.events import (
    Event,
    FileRead,
    FileWritten,
    Json,
    Message,
    PlanUpdated,
    Reasoning,
    TokenUsage,
    Unknown,
)
from runner.formats.claude_usage import ClaudeUsage
from runner.formats.contract import Format
from runner.formats.failures import error_of, failure_of, retry_of
from runner.formats.json_lines import BLOCKS_MAX, Events, JsonLines, call_id_of, plan_of
from runner.formats.values import Object, clip, content_text, count_of, list_of, name_of, object_of, text_of

FORMAT = Format(
    name="claude",
    programs=("claude", "claude-code"),
    prints_cost=True,
    prints_model=True,
    provider="anthropic",
    resume=("--resume", "{session}"),
    resumed_by={"--resume": True, "-r": True, "--session-id": True, "--continue": False, "-c": False},
)
SUBAGENT = "subagent"
TASKS_MAX = 200
_EXIT_CODE = re.compile(r"(?:Error: )?Exit code (\d{1,10})(?:\n|$)")
_TASK_ID = re.compile(r"#(\w{1,32})")
_SILENT = frozenset({"stream_event", "keep_alive"})


class ClaudeParser(JsonLines):
    def __init__(self, counted: Mapping[str, Json]) -> None:
        super().__init__(FORMAT.name, counted)
        self._usage = ClaudeUsage()
        self._tasks: dict[str, dict[str, str]] = {}
        self._last_error: str | None = None

    def _read(self, kind: str, found: Object) -> Events:
        events = self._line(kind, found)
        if not found.get("parent_tool_use_id"):
            yield from events
            return
        said, self_said = self.final_message, self._last_error
        for event in events:
            yield _of_subagent(event)
        # What a sub-agent says is not this agent's last word.
        self.final_message, self._last_error = said, self_said

    def _line(self, kind: str, found: Object) -> Events:
        match kind:
            case "system":
                yield from self._system(found)
            case "assistant":
                yield from self._assistant(found)
            case "user":
                yield from self._user(found)
            case "result":
                yield from self._result(found)
            case _ if kind in _SILENT:
                pass  # Pieces of what follows whole.
            case _:
                yield from self._unknown(kind, found)

    def _system(self, found: Object) -> Events:
        match name_of(found.get("subtype")):
            case "init":
                self.session_id = name_of(found.get("session_id")) or None
                self.model = name_of(found.get("model")) or None
                self.succeeded = None
            case "api_retry":
                why, status = name_of(found.get("error")) or "the API failed", count_of(found.get("error_status"))
                attempt, most = count_of(found.get("attempt")), count_of(found.get("max_retries"))
                yield retry_of(f"{why}{f' (HTTP {status})' if status else ''}, retry {attempt} of {most}")
            case subtype:
                yield from self._unknown(f"system_{subtype}", found)

    def _assistant(self, found: Object) -> Events:
        message = object_of(found.get("message"))
        if found.get("error"):
            # The API failed, and claude put its error into the agent's mouth.
            yield self._failed(content_text(message.get("content")), 0)
            return
        message_id = name_of(message.get("id")) or name_of(found.get("uuid"))
        model = name_of(message.get("model")) or self.model
        spent = self._usage.message(message_id, model or "", object_of(message.get("usage")))
        for block in map(object_of, islice(list_of(message.get("content")), BLOCKS_MAX)):
            match name_of(block.get("type")):
                case "text":
                    yield Message(text=self._said(text_of(block.get("text"))))
                case "thinking":
                    yield Reasoning(text=clip(text_of(block.get("thinking"))))
                case "tool_use" | "server_tool_use":
                    tool, given = name_of(block.get("name")), object_of(block.get("input"))
                    yield from self._called(call_id_of(block.get("id")), tool, given)
                    if tool == "TodoWrite":
                        yield plan_of(given.get("todos"), text_keys=("content",))
                case kind if kind.endswith("tool_result"):
                    yield from self._tool_result(block, {})
                case kind:
                    yield from self._unknown(f"block_{kind}", block)
        if spent:
            yield spent.told(TokenUsage(model=model, session=self.session_id, semantics="provisional"))

    def _user(self, found: Object) -> Events:
        content = object_of(found.get("message")).get("content")
        if isinstance(content, str):
            yield Message(text=clip(content), role="user")
        for block in map(object_of, islice(list_of(content), BLOCKS_MAX)):
            match name_of(block.get("type")):
                case "tool_result":
                    yield from self._tool_result(block, object_of(found.get("tool_use_result")))
                case "text":
                    yield Message(text=clip(text_of(block.get("text"))), role="user")
                case _:
                    pass

    def _tool_result(self, block: Object, details: Object) -> Events:
        call_id = call_id_of(block.get("tool_use_id"))
        tool, given = self._open.get(call_id, ("", {}))
        output, failed = content_text(block.get("content")), block.get("is_error") is True
        path = clip(text_of(given.get("file_path")) or text_of(given.get("notebook_path")), 4096)
        status = "failed" if failed else "completed"
        if tool == "Bash":
            yield from self._bash(text_of(given.get("command")), output, details, failed=failed)
        elif failed:
            pass
        elif tool in ("TaskCreate", "TaskUpdate"):
            yield from self._task(tool, given, details, output)
        elif path and tool == "Read":
            yield FileRead(path=path)
        elif path and tool == "Write":
            kind = "add" if details.get("type") == "create" else "update"
            yield FileWritten(path=path, bytes=len(text_of(given.get("content")).encode()), kind=kind)
        elif path and tool in ("Edit", "MultiEdit", "NotebookEdit"):
            yield FileWritten(path=path, kind="update")
        yield from self._returned(call_id, output, status)

    def _bash(self, command: str, output: str, details: Object, *, failed: bool) -> Events:
        exited = _EXIT_CODE.match(output) if failed else None
        if exited is not None:
            yield from self._executed(command, output[exited.end() :], int(exited[1]), "failed")
        elif details.get("interrupted") is True:
            yield from self._executed(command, output, None, "interrupted")
        elif details.get("backgroundTaskId"):
            yield from self._executed(command, output, None, "background")
        elif not failed:
            yield from self._executed(command, output, 0, "completed")
        # An error without an exit code: it was not allowed to run.

    def _task(self, tool: str, given: Object, details: Object, output: str) -> Events:
        said = _TASK_ID.search(output[:200])
        told = name_of(object_of(details.get("task")).get("id")) or (said[1] if said else "")
        task_id = name_of(given.get("taskId")) or told
        known = self._tasks.get(task_id, {"text": "", "status": "pending"})
        text = clip(text_of(given.get("subject")), 512) or known["text"]
        status = name_of(given.get("status")) or known["status"]
        if status == "deleted":
            self._tasks.pop(task_id, None)
        elif task_id in self._tasks or len(self._tasks) < TASKS_MAX:
            self._tasks[task_id] = {"text": text, "status": status}
        yield PlanUpdated(items=tuple(dict(task) for task in islice(self._tasks.values(), TASKS_MAX)))

    def _failed(self, message: str, http_status: int) -> Event:
        self._last_error = message
        self.error = failure_of(message, http_status)
        return error_of(self.error)

    def _result(self, found: Object) -> Events:
        for model, spent, cost in self._usage.result(found, self.model or ""):
            yield spent.told(
                TokenUsage(
                    model=model or None,
                    session=self.session_id,
                    cost_micros=cost,
                    price_source=None if cost is None else "claude",
                )
            )
        said = text_of(found.get("result"))
        if found.get("is_error") is not True and not name_of(found.get("subtype")).startswith("error"):
            self.succeeded, self.error = True, None
            if said:
                self._said(said)
            return
        self.succeeded = False
        message = said or "; ".join(filter(None, map(text_of, islice(list_of(found.get("errors")), 20))))
        message = message or name_of(found.get("subtype"))
        told = message == self._last_error
        event = self._failed(message, count_of(found.get("api_error_status")))
        if not told:
            yield event


def _of_subagent(event: Event | Unknown) -> Event | Unknown:
    if "source" in event.__struct_fields__ and getattr(event, "source", None) is None:
        return msgspec.structs.replace(event, source=SUBAGENT)
    return event

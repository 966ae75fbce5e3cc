"""`codex exec --json`: threads and items. It prints neither cost nor model, and its usage adds up over the thread.

An `error` line is not the end: codex says `Reconnecting... 1/5` and goes on. Only `turn.failed` is.
"""

import re
from collections.abc import Mapping
from itertools import islice

from runfold.events import AgentError, FileDeleted, FileWritten, Json, Message, PlanUpdated, Reasoning, TokenUsage
from runner.formats.contract import Format
from runner.formats.failures import MESSAGE_BYTES_MAX, error_of, failure_of, retry_of
from runner.formats.json_lines import BLOCKS_MAX, Events, JsonLines, call_id_of, plan_of
from runner.formats.usage import Counters
from runner.formats.values import (
    Object,
    clip,
    content_text,
    count_of,
    exit_code_of,
    list_of,
    name_of,
    object_of,
    status_of,
    text_of,
)

FORMAT = Format(
    name="codex",
    programs=("codex",),
    # An open pipe on stdin keeps it waiting for more input for ever.
    waits_for_stdin=True,
    provider="openai",
    resume=("resume", "{session}"),
    resume_after="exec",
    # Not every option of `exec` is one of `exec resume` too.
    resume_before_prompt=True,
    resumed_by={"resume": True},
    options_with_value=frozenset(
        {
            *("-c", "--config", "-m", "--model", "-s", "--sandbox", "-p", "--profile", "-C", "--cd", "-i", "--image"),
            *("-o", "--output-last-message", "--output-schema", "--color", "--add-dir", "--enable", "--disable"),
            *("--local-provider", "-a", "--ask-for-approval"),
        }
    ),
)
_RETRY = re.compile(r"Reconnecting\.\.\. \d+/\d+")
_THREADS_MAX = 100
_COUNTERS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
)


class CodexParser(JsonLines):
    def __init__(self, counted: Mapping[str, Json]) -> None:
        super().__init__(FORMAT.name, counted)
        self._last_error: str | None = None

    def _read(self, kind: str, found: Object) -> Events:
        match kind:
            case "thread.started":
                self.session_id = name_of(found.get("thread_id")) or None
            case "turn.started":
                self.succeeded = None
            case "item.started" | "item.updated" | "item.completed":
                yield from self._item(kind.removeprefix("item."), object_of(found.get("item")))
            case "error":
                yield self._error(found)
            case "turn.failed":
                yield from self._failed(object_of(found.get("error")))
            case "turn.completed":
                yield from self._completed(found)
            case _ if kind.endswith(".delta"):
                pass  # The whole item follows.
            case _:
                yield from self._unknown(kind, found)

    def _error(self, found: Object) -> AgentError:
        message = text_of(found.get("message"))
        if found.get("will_retry") is True or _RETRY.match(message):
            return retry_of(message)
        self._last_error = message
        self.error = failure_of(message)
        return error_of(self.error)

    def _failed(self, error: Object) -> Events:
        message = text_of(error.get("message"))
        self.succeeded, self.error = False, failure_of(message)
        if message != self._last_error:
            yield error_of(self.error)

    def _completed(self, found: Object) -> Events:
        yield from self._usage(object_of(found.get("usage")))
        if found.get("status") == "failed":
            yield from self._failed(object_of(found.get("error")))
            return
        self.succeeded, self.error = True, None
        response = text_of(object_of(found.get("final_response")).get("text"))
        if response and self.final_message is None:
            yield Message(text=self._said(response))

    def _usage(self, usage: Object) -> Events:
        thread = self.session_id or ""
        earlier = object_of(self.counted.get(thread))
        spent = _counters(usage).beyond(_counters(earlier))
        if not spent:
            return
        # The highest of each: a counter that falls back, in a line out of order, is not counted again.
        highest = {key: max(count_of(earlier.get(key)), count_of(usage.get(key))) for key in _COUNTERS}
        if len(self.counted) < _THREADS_MAX or thread in self.counted:
            self.counted[thread] = highest
        yield spent.told(TokenUsage(session=self.session_id, cumulative=highest))

    def _item(self, phase: str, item: Object) -> Events:
        kind = name_of(item.get("type") or item.get("item_type"))
        done = phase == "completed"
        match kind:
            case "agent_message" | "assistant_message":
                if done:
                    yield Message(text=self._said(text_of(item.get("text"))))
            case "reasoning":
                if done:
                    yield Reasoning(text=clip(text_of(item.get("text"))))
            case "error":
                if done:
                    yield AgentError(message=clip(text_of(item.get("message")), MESSAGE_BYTES_MAX))
            case "todo_list":
                yield plan_of(item.get("items"), text_keys=("text",))
            case "plan":
                if done:
                    yield PlanUpdated(items=({"text": clip(text_of(item.get("text"))), "status": "pending"},))
            case "command_execution" | "file_change" | "mcp_tool_call" | "web_search" | "collab_tool_call":
                yield from self._tool(kind, done, item)
            case _:
                yield from self._unknown(f"item_{kind}", item)

    def _tool(self, kind: str, done: bool, item: Object) -> Events:
        call_id = call_id_of(item.get("id"))
        tool, arguments = _call(kind, item)
        yield from self._called(call_id, tool, arguments)
        if not done:
            return
        status = status_of(item.get("status"))
        result: object = None
        if kind == "command_execution":
            output = text_of(item.get("aggregated_output"))
            result = output
            # A declined command was never executed.
            if status != "declined":
                exit_code = exit_code_of(item.get("exit_code"))
                yield from self._executed(text_of(item.get("command")), output, exit_code, status)
        elif kind == "file_change" and status == "completed":
            for change in map(object_of, islice(list_of(item.get("changes")), BLOCKS_MAX)):
                path, how = clip(text_of(change.get("path")), 4096), name_of(change.get("kind"))
                yield FileDeleted(path=path) if how == "delete" else FileWritten(path=path, kind=how or None)
        elif kind == "mcp_tool_call":
            answer, error = object_of(item.get("result")), object_of(item.get("error"))
            result = text_of(error.get("message")) or content_text(answer.get("content"))
            result = result or answer.get("structured_content")
        yield from self._returned(call_id, result, status)


def _call(kind: str, item: Object) -> tuple[str, Object]:
    match kind:
        case "command_execution":
            return "shell", {"command": text_of(item.get("command"))}
        case "file_change":
            return "apply_patch", {"changes": list_of(item.get("changes"))}
        case "mcp_tool_call":
            tool = f"{name_of(item.get('server'))}.{name_of(item.get('tool'))}"
            return tool, object_of(item.get("arguments")) or {"arguments": item.get("arguments")}
        case "web_search":
            return "web_search", {"query": text_of(item.get("query"))}
        case _:
            shown = {key: value for key, value in item.items() if key not in ("id", "type", "status")}
            return name_of(item.get("tool")) or kind, shown


def _counters(usage: Object) -> Counters:
    given, read, written, answered, thought = (count_of(usage.get(key)) for key in _COUNTERS)
    return Counters(
        input_tokens=given,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=answered,
        reasoning_tokens=thought,
    )

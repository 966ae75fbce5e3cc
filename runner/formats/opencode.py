"""`opencode run --format json`: steps with their own tokens and cost; the last step's reason `stop` is the success.

A tool is told once, when it has returned. Input excludes the cache, and output excludes reasoning.
"""

from collections.abc import Mapping

from runfold.events import FileRead, FileWritten, Json, Message, Reasoning, TokenUsage
from runner.formats.contract import Format
from runner.formats.failures import error_of, failure_of
from runner.formats.json_lines import Events, JsonLines, call_id_of, duration_of, plan_of
from runner.formats.usage import Counters
from runner.formats.values import (
    Object,
    clip,
    count_of,
    exit_code_of,
    micros_of,
    name_of,
    object_of,
    text_of,
)

FORMAT = Format(
    name="opencode",
    programs=("opencode", "opencode-ai"),
    prints_cost=True,
    resume=("--session", "{session}"),
    resume_after="run",
    resumed_by={"--session": True, "-s": True, "--continue": False, "-c": False},
)
PARTS_MAX = 10_000  # Steps whose usage is known to be counted.


class OpencodeParser(JsonLines):
    def __init__(self, counted: Mapping[str, Json]) -> None:
        super().__init__(FORMAT.name, counted)
        self._steps: dict[str, None] = {}
        self._dollars = 0.0
        self._micros = 0

    def _read(self, kind: str, found: Object) -> Events:
        self.session_id = self.session_id or name_of(found.get("sessionID")) or None
        part = object_of(found.get("part"))
        match kind:
            case "step_start":
                self.succeeded = None
            case "text":
                yield Message(text=self._said(text_of(part.get("text"))))
            case "reasoning":
                yield Reasoning(text=clip(text_of(part.get("text"))))
            case "tool_use":
                yield from self._tool(part)
            case "step_finish":
                yield from self._finished(part)
            case "error":
                error = object_of(found.get("error"))
                data = object_of(error.get("data"))
                message = text_of(data.get("message")) or text_of(error.get("message")) or name_of(error.get("name"))
                self.succeeded, self.error = False, failure_of(message, count_of(data.get("statusCode")))
                yield error_of(self.error)
            case _:
                yield from self._unknown(kind, found)

    def _tool(self, part: Object) -> Events:
        call_id, tool, state = call_id_of(part.get("callID")), name_of(part.get("tool")), object_of(part.get("state"))
        given, metadata, time = (object_of(state.get(key)) for key in ("input", "metadata", "time"))
        yield from self._called(call_id, tool, given)
        said = name_of(state.get("status"))
        if said in ("pending", "running"):
            return
        status = "completed" if said == "completed" else "failed"
        output = text_of(state.get("output")) or text_of(state.get("error"))
        path = clip(text_of(metadata.get("filepath")) or text_of(given.get("filePath")), 4096)
        if tool == "bash":
            exit_code = exit_code_of(metadata.get("exit"))
            spent = duration_of(time.get("start"), time.get("end"))
            yield from self._executed(
                text_of(given.get("command")), output, exit_code, "failed" if exit_code else status, spent
            )
        elif tool == "todowrite":
            yield plan_of(given.get("todos"), text_keys=("content",))
        elif status == "completed" and path:
            if tool == "write":
                kind = "update" if metadata.get("exists") is True else "add"
                yield FileWritten(path=path, bytes=len(text_of(given.get("content")).encode()), kind=kind)
            elif tool == "edit":
                yield FileWritten(path=path, kind="update")
            elif tool == "read":
                yield FileRead(path=path)
        yield from self._returned(call_id, output, status)

    def _finished(self, part: Object) -> Events:
        yield from self._usage(part)
        match name_of(part.get("reason")):
            case "stop":
                self.succeeded, self.error = True, None
            case "tool-calls":
                self.succeeded = None
            case reason:
                self.succeeded = False
                self.error = failure_of(f"the model ended with `{reason or 'no reason'}`")
                yield error_of(self.error)

    def _usage(self, part: Object) -> Events:
        step = name_of(part.get("id"))
        if step in self._steps:
            return
        if step:
            self._steps[step] = None
            if len(self._steps) > PARTS_MAX:
                del self._steps[next(iter(self._steps))]
        cost = self._cost(part.get("cost"))
        spent = _counters(object_of(part.get("tokens")))
        if spent or cost:
            yield spent.told(
                TokenUsage(session=self.session_id, cost_micros=cost, price_source=None if cost is None else "opencode")
            )

    def _cost(self, dollars: Json) -> int | None:
        """The step's share of the rounded sum, so that a thousand small steps round once."""
        if micros_of(dollars) is None:
            return None
        self._dollars += dollars
        before, self._micros = self._micros, round(self._dollars * 1_000_000)
        return self._micros - before


def _counters(tokens: Object) -> Counters:
    cache = object_of(tokens.get("cache"))
    read, written, thought = (
        count_of(cache.get("read")),
        count_of(cache.get("write")),
        count_of(tokens.get("reasoning")),
    )
    return Counters(
        input_tokens=count_of(tokens.get("input")) + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=count_of(tokens.get("output")) + thought,
        reasoning_tokens=thought,
    )

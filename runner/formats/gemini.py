"""`gemini --output-format stream-json`: messages come in pieces, a command that failed has status `success`.

It prints its model and no cost; the counters stand in `result`, and thoughts are in the total only.
"""

from collections.abc import Mapping
from itertools import islice

from runfold.events import AgentError, Event, FileRead, FileWritten, Json, Message, TokenUsage, Unknown
from runner.formats.contract import Format
from runner.formats.failures import error_of, failure_of, retry_of
from runner.formats.json_lines import FINAL_MESSAGE_CHARACTERS_MAX, Events, JsonLines, call_id_of, plan_of
from runner.formats.usage import Counters
from runner.formats.values import Object, bounded, clip, content_text, count_of, name_of, object_of, text_of

FORMAT = Format(
    name="gemini",
    programs=("gemini", "gemini-cli"),
    prints_model=True,
    provider="google",
    resume=("--resume", "{session}"),
    resumed_by={"--resume": True, "-r": True, "--session-id": True},
)
_MODELS_MAX = 20
_COMMANDS = frozenset({"run_shell_command"})


class GeminiParser(JsonLines):
    def __init__(self, counted: Mapping[str, Json]) -> None:
        super().__init__(FORMAT.name, counted)
        self._pieces: list[str] = []
        self._pieces_characters = 0
        self._counted_here: dict[str, Counters] = {}
        self._last_error: str | None = None

    def end(self) -> tuple[Event | Unknown, ...]:
        return (*self._whole_message(), *super().end())

    def _read(self, kind: str, found: Object) -> Events:
        if kind == "message" and found.get("delta") is True and found.get("role") == "assistant":
            self._take_piece(text_of(found.get("content")))
            return
        yield from self._whole_message()
        match kind:
            case "init":
                self.session_id = name_of(found.get("session_id")) or None
                self.model = name_of(found.get("model")) or None
            case "message":
                text, role = text_of(found.get("content")), name_of(found.get("role")) or "assistant"
                yield Message(text=self._said(text) if role == "assistant" else clip(text), role=role)
            case "tool_use":
                yield from self._tool_use(found)
            case "tool_result":
                yield from self._tool_result(found)
            case "error":
                yield self._error(found)
            case "result":
                yield from self._result(found)
            case _:
                yield from self._unknown(kind, found)

    def _take_piece(self, piece: str) -> None:
        piece = piece[: FINAL_MESSAGE_CHARACTERS_MAX - self._pieces_characters]
        # Pieces without a character would still take memory.
        if piece:
            self._pieces.append(piece)
            self._pieces_characters += len(piece)

    def _whole_message(self) -> Events:
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces, self._pieces_characters = [], 0
            yield Message(text=self._said(text))

    def _tool_use(self, found: Object) -> Events:
        tool, parameters = name_of(found.get("tool_name")), object_of(found.get("parameters"))
        yield from self._called(call_id_of(found.get("tool_id")), tool, parameters)
        if tool == "write_todos":
            yield plan_of(parameters.get("todos"), text_keys=("description",))

    def _tool_result(self, found: Object) -> Events:
        call_id = call_id_of(found.get("tool_id"))
        tool, parameters = self._open.get(call_id, ("", {}))
        done = found.get("status") == "success"
        status = "completed" if done else "failed"
        error = object_of(found.get("error"))
        output = content_text(found.get("output")) or text_of(error.get("message"))
        path = clip(text_of(parameters.get("file_path")), 4096)
        if tool in _COMMANDS:
            # Its exit code is nowhere in the stream: a command that exits 1 is a success to gemini.
            yield from self._executed(text_of(parameters.get("command")), output, None, status)
        elif done and path and tool == "write_file":
            yield FileWritten(path=path, bytes=len(text_of(parameters.get("content")).encode()))
        elif done and path and tool == "replace":
            yield FileWritten(path=path, kind="update")
        elif done and path and tool == "read_file":
            yield FileRead(path=path)
        yield from self._returned(call_id, output, status)

    def _error(self, found: Object) -> AgentError:
        message = text_of(found.get("message"))
        if found.get("severity") == "warning":
            return retry_of(message)
        self._last_error = message
        self.error = failure_of(message)
        return error_of(self.error)

    def _result(self, found: Object) -> Events:
        yield from self._usage(object_of(found.get("stats")))
        if found.get("status") == "success":
            self.succeeded, self.error = True, None
            return
        message = text_of(object_of(found.get("error")).get("message"))
        self.succeeded, self.error = False, failure_of(message)
        if message != self._last_error:
            yield error_of(self.error)

    def _usage(self, stats: Object) -> Events:
        models = {
            name[:256]: object_of(given) for name, given in islice(object_of(stats.get("models")).items(), _MODELS_MAX)
        }
        known = sum(count_of(given.get("total_tokens")) for given in models.values())
        # The totals are the truth; they are split by model only where the parts add up to them.
        by_model = models if known == count_of(stats.get("total_tokens")) and models else {self.model or "": stats}
        for model, given in by_model.items():
            before, now = self._counted_here.get(model, Counters()), _counters(given)
            spent = now.beyond(before)
            self._counted_here[model] = before.most(now)
            if spent:
                raw = bounded({key: value for key, value in given.items() if count_of(value)}, 2048)
                yield spent.told(TokenUsage(model=model or None, session=self.session_id, cumulative=raw))


def _counters(stats: Object) -> Counters:
    given, answered = count_of(stats.get("input_tokens")), count_of(stats.get("output_tokens"))
    thoughts = max(count_of(stats.get("total_tokens")) - given - answered, 0)
    return Counters(
        input_tokens=given,
        cache_read_tokens=count_of(stats.get("cached")),
        output_tokens=answered + thoughts,
        reasoning_tokens=thoughts,
    )

"""What a recorded session tells: the run it becomes, its events with their own times, and how it ended.

A format's reader tells it record by record; only what later records need is kept, so a long file costs no memory.
"""

import re
from collections import OrderedDict, deque
from typing import Any, TypeAlias, cast

import msgspec

from runfold.amounts import AMOUNT_MAX, TOTAL_MAX
from runfold.commands import Cancel, Complete, Fail, Stop
from runfold.events import (
    Completion,
    Event,
    Failure,
    Message,
    Reasoning,
    RunQueued,
    Telemetry,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    encode_data,
    event_type,
)
from runfold.long_text import shorten as without_long_texts
from runner.imports.tools import meaning
from runner.imports.values import Map, moment_us, shorten, text

EVENT_BYTES_MAX = 60 * 1024  # Below what the log takes, so that redaction may make it a little longer.
TITLE_CHARACTERS_MAX = 120
PROMPT_CHARACTERS_MAX = 4096
OPEN_CALLS_MAX = 10_000
SESSION_CHARACTERS_MAX = 200
_DEPTH_MAX = 32
_TAGS = re.compile(r"</?[a-z][a-z_-]{0,40}>")

Ending: TypeAlias = Complete | Fail | Cancel | Stop


class Timed(msgspec.Struct, frozen=True):
    """An event and when it happened."""

    event: Event
    at_us: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts as they are stored: the input includes the cache, the output the reasoning."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def beyond(self, before: "Usage") -> "Usage":
        """What this adds to an earlier reading of the same counters; never negative."""
        return Usage(**{name: max(getattr(self, name) - getattr(before, name), 0) for name in self.__struct_fields__})

    def plus(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


class _Call(msgspec.Struct):
    tool: str
    arguments: object
    told: bool = False
    """Whether the source itself said what the call did, so that nothing has to be derived from it."""


class Story:
    """One run to be. `identity` names its source for ever; the run's id is derived from it."""

    def __init__(self, source_format: str, fallback_us: int) -> None:
        self.format = source_format
        self.identity = ""
        self.workflow: str | None = None
        self.title = ""
        self.model: str | None = None
        self.cwd: str | None = None
        self.prompt: str | None = None
        self.session: str | None = None
        self._counted = 0
        self.labels: dict[str, str] = {}
        self.created_us: int | None = None
        self.ended_us: int | None = None
        self.ending: Ending | None = None
        self.count = 0
        self.unknown = 0
        self.turn = 0
        self.turn_open = False
        self.last_text = ""
        self._fallback_us = fallback_us
        self._now_us: int | None = None
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self.pending: deque[Timed] = deque()

    @property
    def now_us(self) -> int:
        return self._fallback_us if self._now_us is None else self._now_us

    def at(self, value: object) -> None:
        """The source's time of what follows; where it is not readable the time before it stands."""
        self.at_us(moment_us(value))

    def at_us(self, us: int | None) -> None:
        if us is None:
            return
        self._now_us = us
        self.created_us = us if self.created_us is None else self.created_us
        self.ended_us = us if self.ended_us is None else max(self.ended_us, us)

    def say(self, *events: Event) -> None:
        for event in events:
            self.pending.append(Timed(fitting(event), self.now_us))
            self.count += 1

    def message(self, role: str, words: str) -> None:
        if not words.strip():
            return
        if role == "user" and self.prompt is None:
            self.prompt = words[:PROMPT_CHARACTERS_MAX]
            self.title = self.title or shorten(_TAGS.sub(" ", words), TITLE_CHARACTERS_MAX)
        if role == "assistant":
            self.last_text = words
        self.say(Message(role=role, text=words))

    def reasoning(self, words: str) -> None:
        if words.strip():
            self.say(Reasoning(text=words))

    def call(self, call_id: str, tool: str, arguments: object) -> None:
        if not call_id:
            call_id = f"call-{self.count + 1}"
        self._calls[call_id] = _Call(tool, arguments)
        if len(self._calls) > OPEN_CALLS_MAX:
            self._calls.popitem(last=False)
        self.say(ToolCalled(tool=tool or "unknown", call_id=call_id, arguments=arguments))

    def result(
        self,
        call_id: str,
        result: object,
        *,
        failed: bool = False,
        status: str = "",
        exit_code: int | None = None,
        duration_ms: int | None = None,
    ) -> None:
        """The call has returned; what it did to files and commands follows from its tool."""
        call = self._calls.pop(call_id, None)
        tool = call.tool if call else ""
        if call and not call.told:
            output = result if isinstance(result, str) else ""
            self.say(
                *meaning(
                    tool, call.arguments, output, failed=failed, exit_code=exit_code, duration_ms=duration_ms,
                    status=status if status == "interrupted" else "",
                )
            )  # fmt: skip
        said = status or ("failed" if failed else "completed")
        self.say(ToolReturned(call_id=call_id or "unknown", tool=tool, result=result, status=said))

    def told(self, call_id: str, *events: Event) -> None:
        """The source itself says what a call did."""
        if call := self._calls.get(call_id):
            call.told = True
        self.say(*events)

    def arguments(self, call_id: str, key: str) -> str:
        """What an open call was given."""
        call = self._calls.get(call_id)
        return text(call.arguments, key) if call else ""

    @property
    def has_open_call(self) -> bool:
        return bool(self._calls)

    def usage(self, used: Usage, *, model: str | None = None, session: str | None = None, **more: Any) -> None:
        if not used and not more.get("cost_micros"):
            return
        thread = (session or self.session or "")[:SESSION_CHARACTERS_MAX] or None
        counts = {name: min(getattr(used, name), AMOUNT_MAX) for name in used.__struct_fields__}
        if self._counted + sum(counts.values()) > TOTAL_MAX:
            return  # Nobody has spent as much: the file lies.
        self._counted += sum(counts.values())
        self.say(TokenUsage(model=model or self.model, session=thread, **counts, **more))

    def unknown_record(self, name: str, record: Map) -> None:
        """A record that the format's reader does not know: kept as it is, never fatal."""
        self.unknown += 1
        self.say(Telemetry(name=f"{self.format}.{name or 'record'}"[:120], data=record))

    def start_turn(self) -> None:
        """A prompt begins a turn; one that is still open has ended with it."""
        self.end_turn()
        self.turn += 1
        self.turn_open = True
        self.say(TurnStarted(turn=self.turn, agent_session_id=self.session))

    def end_turn(self, *, error: str = "", cancelled: bool = False, duration_ms: int | None = None) -> None:
        if not self.turn_open:
            return
        self.interrupt_calls()
        self.turn_open = False
        if cancelled:
            self.say(TurnCancelled(turn=self.turn, duration_ms=duration_ms))
        elif error:
            failure = Failure(type="agent", code="TURN_FAILED", message=error[:2000])
            self.say(TurnFailed(turn=self.turn, agent_session_id=self.session, duration_ms=duration_ms, error=failure))
        else:
            self.say(TurnCompleted(turn=self.turn, agent_session_id=self.session, duration_ms=duration_ms))

    def interrupt_calls(self) -> None:
        for call_id in list(self._calls):
            self.result(call_id, None, status="interrupted", failed=True)

    def completed(self, rule: str, *, message: str = "", code: str = "REPORTED") -> None:
        seen = Completion(detected=True, rule=rule, line=shorten(self.last_text, 200) or None)
        self.ending = Complete(reason_code=code, message=message[:2000], completion=seen)

    def failed(self, message: str, *, code: str = "TURN_FAILED", kind: Any = "agent", retryable: bool = False) -> None:
        error = Failure(type=kind, code=code, message=message[:2000], retryable=retryable)
        self.ending = Fail(reason_code=code, error=error)

    def finish(self) -> None:
        """The file is at its end: close what its ending closes; without one nobody knows how it went."""
        if self.ending is None:
            self.failed(
                f"the {self.format} recording has no end: nothing in it says how the session went",
                code="NO_TERMINAL_EVENT",
            )
        if isinstance(self.ending, Fail):
            self.end_turn(error=self.ending.error.message) if self.ending.reason_code != "NO_TERMINAL_EVENT" else None
        elif isinstance(self.ending, Complete):
            self.end_turn()
        elif self.ending is not None:
            self.end_turn(cancelled=True)

    def queued(self, *, source: Map) -> RunQueued:
        """The first event of the run: what is known of it before anything happens."""
        return RunQueued(
            driver="imported",
            workflow=(self.workflow or None),
            title=self.title[:TITLE_CHARACTERS_MAX] or self.format,
            payload={"imported": source},
            labels=self.labels,
            cwd=self.cwd or None,
            prompt=self.prompt,
            format=self.format,
            model=self.model or None,
        )


def fitting(event: Event) -> Event:
    """The event; cut where it would be too large for the log even with its long texts stored beside it."""
    data = encode_data(event)
    if len(data) <= EVENT_BYTES_MAX or without_long_texts(data, EVENT_BYTES_MAX)[1]:
        return event
    plain = cast(Map, msgspec.json.decode(data))
    characters = EVENT_BYTES_MAX // 2
    while characters > 16:
        cut = _cut(plain, characters, _DEPTH_MAX)
        if len(msgspec.json.encode(cut)) <= EVENT_BYTES_MAX:
            return msgspec.convert(cut, type(event))
        characters //= 4
    return Telemetry(name="too_large", data={"type": event_type(event), "bytes": len(data)})


def _cut(value: object, characters: int, depth: int) -> Any:
    if isinstance(value, str):
        if len(value) <= characters:
            return value
        return f"{value[:characters]}… ({len(value) - characters} more characters)"
    if not isinstance(value, dict | list) or depth == 0:
        return value if not isinstance(value, dict | list) else "…"
    if isinstance(value, dict):
        pairs = list(cast(Map, value).items())[:characters]
        return {key: _cut(item, characters, depth - 1) for key, item in pairs}
    return [_cut(item, characters, depth - 1) for item in cast(list[object], value)[:characters]]


def joined(content: object) -> str:
    """The text of a message's content: a text, or a list of texts and blocks with one."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return text(content, "text") or text(content, "content") or text(content, "thinking")
    return "\n".join(part for item in cast(list[object], content) if (part := joined(item)))

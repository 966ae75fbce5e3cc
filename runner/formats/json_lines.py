"""The part that every agent's parser shares: lines into objects, tools that are open, and kinds that nobody knows yet.

A line that is not one JSON object is plain output. A kind of line that a parser does not know is told once, as
`telemetry`, so that a new version of an agent shows itself without flooding the log.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from msgspec.structs import replace

from runfold.events import (
    CommandExecuted,
    Event,
    Json,
    PlanUpdated,
    Telemetry,
    TestRunCompleted,
    ToolCalled,
    ToolReturned,
    Unknown,
)
from runner.formats.contract import Parser
from runner.formats.sentinels import reported
from runner.formats.tested import results_in
from runner.formats.values import (
    JSON_BYTES_MAX,
    RESULT_BYTES_MAX,
    Object,
    bounded,
    clip,
    count_of,
    list_of,
    name_of,
    object_of,
    parse_object,
    tail,
    text_of,
)

OPEN_CALLS_MAX = 1_000
KINDS_MAX = 50
BLOCKS_MAX = 500  # Changed files, content blocks or plan items of one line.
FINAL_MESSAGE_CHARACTERS_MAX = 1024 * 1024
TIME_MS_MAX = 10**14  # The year 5138.
_TELEMETRY_NAME_CHARACTERS_MAX = 64

Events = Iterator[Event | Unknown]


class JsonLines(Parser):
    def __init__(self, name: str, counted: Mapping[str, Json]) -> None:
        super().__init__(counted)
        self._name = name
        self._open: dict[str, tuple[str, Object]] = {}
        self._kinds: set[str] = set()

    def line(self, line: str | bytes) -> Sequence[Event | Unknown]:
        found = parse_object(line)
        kind = name_of(found.get("type")) if found else ""
        return tuple(self._read(kind, found)) if found and kind else ()

    def end(self) -> Sequence[Event | Unknown]:
        owed = [
            ToolReturned(call_id=call_id, tool=tool, status="interrupted") for call_id, (tool, _) in self._open.items()
        ]
        self._open.clear()
        return owed

    def _read(self, kind: str, found: Object) -> Events:
        """The events of one line of this format."""
        raise NotImplementedError

    def _called(self, call_id: str, tool: str, arguments: Object) -> Events:
        """A call that is open already is only an update of it."""
        if call_id in self._open:
            return
        if len(self._open) >= OPEN_CALLS_MAX:
            oldest = next(iter(self._open))
            yield ToolReturned(call_id=oldest, tool=self._open.pop(oldest)[0], status="interrupted")
        self._open[call_id] = (tool, arguments)
        yield ToolCalled(tool=tool, call_id=call_id, arguments=bounded(arguments, JSON_BYTES_MAX))

    def _returned(self, call_id: str, result: Any, status: str) -> Events:
        tool, _ = self._open.pop(call_id, ("", {}))
        kept = None if result in (None, "") else bounded(result, RESULT_BYTES_MAX)
        yield ToolReturned(call_id=call_id, tool=tool, result=kept, status=status)

    def _executed(
        self, command: str, output: str, exit_code: int | None, status: str, duration_ms: int | None = None
    ) -> Events:
        told = reported(output)
        yield from told
        executed = CommandExecuted(
            command=clip(command, RESULT_BYTES_MAX),
            exit_code=exit_code,
            status=status,
            duration_ms=duration_ms,
            output_tail=tail(output),
        )
        yield executed
        # A command that counts its tests itself needs nobody to count them again.
        if not any(isinstance(event, TestRunCompleted) for event in told) and (found := results_in(output)) is not None:
            yield replace(found, command=executed.command)

    def _unknown(self, kind: str, found: Object) -> Events:
        name = re.sub(r"[^a-z0-9]+", "_", f"{self._name}_{kind}".lower()).strip("_")[:_TELEMETRY_NAME_CHARACTERS_MAX]
        if name in self._kinds or len(self._kinds) >= KINDS_MAX:
            return
        self._kinds.add(name)
        yield Telemetry(name=name.strip("_"), data=bounded(found, RESULT_BYTES_MAX))

    def _said(self, text: str) -> str:
        """The text, remembered as what the agent said last."""
        self.final_message = text[:FINAL_MESSAGE_CHARACTERS_MAX]
        return clip(text)


def call_id_of(value: Any) -> str:
    return name_of(value) or "unnamed"


def plan_of(entries: Any, *, text_keys: Sequence[str]) -> PlanUpdated:
    """A todo list of any agent as `{text, status}`; `completed: true` and no status means completed."""
    return PlanUpdated(items=tuple(islice(_plan_items(list_of(entries), text_keys), BLOCKS_MAX)))


def _plan_items(entries: Iterable[Any], text_keys: Sequence[str]) -> Iterator[Json]:
    room = JSON_BYTES_MAX * 2
    for entry in map(object_of, entries):
        text = next(filter(None, (text_of(entry.get(key)) for key in text_keys)), "")
        status = name_of(entry.get("status")) or ("completed" if entry.get("completed") is True else "pending")
        kept = clip(text, 1024)
        room -= len(kept.encode()) + len(status) + 32
        if room < 0:
            return
        yield {"text": kept, "status": status}


def duration_of(started: Any, ended: Any) -> int | None:
    """Milliseconds between two times in milliseconds; None where either is missing or they run backwards."""
    if not isinstance(started, int | float) or not isinstance(ended, int | float):
        return None
    return count_of(int(ended - started)) if 0 < started <= ended < TIME_MS_MAX else None

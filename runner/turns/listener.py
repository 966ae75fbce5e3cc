"""Hears what a program prints, line by line, as events: its own reports, its agent's format, its tests' closing lines.

Called from the threads that carry the streams, one call at a time; quick for output in which there is nothing to hear.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from runfold import telemetry
from runfold.events import (
    Completion,
    Event,
    Failure,
    Json,
    TelemetryRejected,
    TestRunCompleted,
    TestRunStarted,
    TokenUsage,
    Unknown,
)
from runfold.telemetry import parse_line
from runner.formats.choosing import LINES_LOOKED_AT_MAX, format_of, parser_of, recognise
from runner.formats.contract import Parser
from runner.formats.tested import TestResults, has_marks
from runner.patterns import searcher
from runner.prices import priced

FIRST_BYTES_MAX = 256 * 1024  # Of the lines that are kept until the format is recognised.
PLAIN_BYTES_MAX = 2 * telemetry.LINE_BYTES_MAX  # Of a line that is no agent's: none that is understood is as long.
_MARKS = (b'"runfold"', b'"__cody_event__"')
_PLAIN = "plain"


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What the program itself has said of its turn.

    `format` is empty where it speaks none that says how it ended; `counted` is for the next turn's parser.
    """

    format: str = ""
    succeeded: bool | None = None
    session_id: str | None = None
    final_message: str | None = None
    error: Failure | None = None
    completion: Completion | None = None
    counted: dict[str, Json] = {}


class Listener:
    """One turn's. `pattern` completes the run where a line of the final message, or of plain output, matches it."""

    def __init__(
        self,
        *,
        format_name: str | None = None,
        pattern: str | None = None,
        model: str | None = None,
        counted: Mapping[str, Json] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._search = searcher(pattern) if pattern else None
        self._matched: str | None = None
        self._model, self._counted = model, dict(counted or {})
        self._name = format_name
        self._parser: Parser | None = None
        self._first: list[bytes] = []
        self._first_bytes = 0
        self._results = TestResults()
        self._reports_tests = False
        self._reckoned_micros = 0
        if format_name is not None:
            self._choose(format_name)

    def wants(self, lines: bytes, stream: str) -> bool:
        """Whether to cut these lines up and call `line` for each of them."""
        if stream != "stderr":
            if self._parser is not None:
                return True
            if self._search is not None and self._matched is None:
                self._matched = self._search(lines)
            if self._name is None:
                return True
        return has_marks(lines, _MARKS) or has_marks(lines)

    def line(self, line: bytes, stream: str) -> Sequence[Event | Unknown]:
        """The events of one line, without its line end."""
        with self._lock:
            if stream != "stderr" and self._parser is not None:
                return self._completed(self._parser.line(line))
            events = self._plain(line[:PLAIN_BYTES_MAX].decode("utf-8", "replace").rstrip("\r"))
            if stream != "stderr" and self._name is None:
                events += self._recognise(line)
            return events

    @property
    def reports_files(self) -> bool:
        """Whether what it hears, so far, is a format that tells which files are written."""
        return self._name is not None and format_of(self._name).reports_files

    def finish(self) -> Sequence[Event | Unknown]:
        """What is only known once the program has ended."""
        with self._lock:
            if self._parser is not None:
                events = self._completed(self._parser.end())
                message = self._parser.final_message
                if self._search is not None and message is not None:
                    self._matched = self._search(message.encode())
                return events
            ended = self._results.end()
            return [ended] if ended is not None and not self._reports_tests else []

    def heard(self) -> Heard:
        line, parser = self._matched, self._parser
        completion = None if line is None else Completion(detected=True, rule="pattern", line=line)
        if parser is None:
            return Heard(completion=completion, counted=self._counted)
        return Heard(
            format=self._name or "" if format_of(self._name or _PLAIN).says_end else "",
            succeeded=parser.succeeded,
            session_id=parser.session_id,
            final_message=parser.final_message,
            error=parser.error,
            completion=completion,
            counted=parser.counted,
        )

    def _choose(self, name: str) -> None:
        self._name = name
        if name != _PLAIN:
            # What the lines show is the agent's packing, in which the prompt may stand too.
            self._matched = None
            self._parser = parser_of(name, counted=self._counted)

    def _recognise(self, line: bytes) -> list[Event | Unknown]:
        """Look at one more of the first lines; once the format is clear, its parser hears them all."""
        self._first.append(line)
        self._first_bytes += len(line)
        # Earlier lines were looked at when they came.
        name = recognise([line])
        if name != _PLAIN:
            self._choose(name)
        elif len(self._first) >= LINES_LOOKED_AT_MAX or self._first_bytes > FIRST_BYTES_MAX:
            self._name = _PLAIN
        if self._name is None:
            return []
        first, self._first = self._first, []
        return [event for line in first for event in self._completed(self._parser.line(line))] if self._parser else []

    def _plain(self, text: str) -> list[Event | Unknown]:
        parsed = parse_line(text)
        if isinstance(parsed, TelemetryRejected):
            return [parsed]
        if parsed is not None:
            self._reports_tests = self._reports_tests or any(
                isinstance(event, TestRunStarted | TestRunCompleted) for event in parsed
            )
            return list(parsed)
        found = self._results.line(text)
        # A program that counts its tests itself needs nobody to count them again.
        return [found] if found is not None and not self._reports_tests else []

    def _completed(self, events: Iterable[Event | Unknown]) -> list[Event | Unknown]:
        """The agent's events with what they do not say themselves: prices."""
        heard: list[Event | Unknown] = []
        for event in events:
            if isinstance(event, TokenUsage):
                event = self._priced(event)
            heard.append(event)
        return heard

    def _priced(self, usage: TokenUsage) -> TokenUsage:
        """The usage with its cost. What the agent says at the end includes what was reckoned of it before."""
        model = (self._parser.model if self._parser else None) or self._model
        with_price = priced(usage, model=model, provider=format_of(self._name or _PLAIN).provider)
        if usage.cost_micros is not None:
            known = min(self._reckoned_micros, usage.cost_micros)
            self._reckoned_micros -= known
            return msgspec.structs.replace(with_price, cost_micros=usage.cost_micros - known)
        if usage.semantics == "provisional":
            self._reckoned_micros += with_price.cost_micros or 0
        return with_price

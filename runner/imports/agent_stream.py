"""What agents print (`codex exec --json`, `stream-json` of claude and gemini, `opencode run`), read by their parsers.

The parsers are those of live runs, so a session is told the same whether it was driven here or imported.
"""

from collections.abc import Callable, Sequence

import msgspec

from runfold.events import Event, Message, Telemetry, TelemetryRejected, Unknown
from runner.formats.choosing import parser_of, recognise
from runner.formats.contract import Parser
from runner.imports.story import TITLE_CHARACTERS_MAX, Story
from runner.imports.values import Map, shorten, text

PRINTED = {"codex-exec": "codex", "claude-stream": "claude", "gemini-stream": "gemini", "opencode-run": "opencode"}
"""What a recording is called, and the parser that reads it."""
_LOOKED_AT = 20
_encode = msgspec.json.Encoder().encode


def printed_by(name: str) -> Callable[[Sequence[Map]], bool]:
    """Whether the records are what this agent prints."""
    return lambda head: recognise([_encode(record).decode() for record in head[:_LOOKED_AT]]) == name


def reader_of(name: str) -> "Callable[[Story], AgentStream]":
    return lambda story: AgentStream(name, story)


class AgentStream:
    """One turn of one agent."""

    def __init__(self, name: str, story: Story) -> None:
        self._name = name
        self._story = story
        self._parser: Parser = parser_of(name)
        story.workflow = name

    def record(self, record: Map) -> None:
        story, parser = self._story, self._parser
        story.at(record.get("timestamp"))
        events = parser.line(_encode(record).decode())
        if parser.session_id and not story.identity:
            story.session, story.identity = parser.session_id, f"{self._name}:{parser.session_id}"
        story.model = parser.model or story.model
        story.cwd = story.cwd or text(record, "cwd") or None
        if not story.turn_open:
            story.start_turn()
        if text(record, "type") == "message" and text(record, "role") == "user":
            # The agent repeats its prompt, which a driver knows and its parser leaves out.
            story.message("user", text(record, "content"))
        self._say(events)

    def end(self) -> None:
        story, parser = self._story, self._parser
        self._say(parser.end())
        story.title = story.title or shorten(story.last_text, TITLE_CHARACTERS_MAX)
        error = parser.error
        if parser.succeeded is True:
            story.completed("the format's own end")
        elif error is not None:
            story.failed(error.message, kind=error.type, retryable=error.retryable)
        elif parser.succeeded is False:
            story.failed("the agent reports a failure")
        story.finish()

    def _say(self, events: Sequence[Event | Unknown]) -> None:
        story = self._story
        for event in events:
            if isinstance(event, Unknown):
                story.unknown += 1
            elif isinstance(event, TelemetryRejected):
                # Only a worker may say that; what was refused is told as what it is.
                story.say(Telemetry(name="telemetry_rejected", data={"reason": event.reason, "sample": event.sample}))
            else:
                if isinstance(event, Message) and event.role == "assistant":
                    story.last_text = event.text
                story.say(event)

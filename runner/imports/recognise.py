"""Which format a file has, by what stands in it, never by its name; and its records told as the runs they become."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

import msgspec

from runfold.errors import RunfoldError
from runner.imports import (
    agent_stream,
    claude_session,
    codex_rollout,
    copilot_session,
    dbt_results,
    droid_stream,
    gemini_session,
    github_actions,
    kimi_session,
    openhands,
    openlineage,
    qwen_session,
    swe_agent,
    temporal_history,
)
from runner.imports.source import Source
from runner.imports.story import Story, Timed
from runner.imports.values import Map, text

HEAD_RECORDS = 50


class Reader(Protocol):
    """Tells a story record by record; it believes nothing about what it reads, and never raises."""

    def record(self, record: Map) -> None: ...

    def end(self) -> None: ...


def _one(record: Map) -> str:
    return ""


class Format(msgspec.Struct, frozen=True):
    name: str
    is_one: Callable[[Sequence[Map]], bool]
    make: Callable[[Story], Reader]
    key: Callable[[Map], str] = _one
    """Which of several runs in one file a record belongs to."""


def _is_openhands_output(head: Sequence[Map]) -> bool:
    return "history" in head[0] and openhands.is_one(head)


# The first that fits is taken, so what is said more exactly stands before what fits more.
FORMATS = (
    Format(codex_rollout.FORMAT, codex_rollout.is_one, codex_rollout.CodexRollout),
    Format(qwen_session.FORMAT, qwen_session.is_one, qwen_session.QwenSession),
    Format(claude_session.FORMAT, claude_session.is_one, claude_session.ClaudeSession),
    Format(gemini_session.FORMAT, gemini_session.is_one, gemini_session.GeminiSession),
    Format(copilot_session.FORMAT, copilot_session.is_one, copilot_session.CopilotSession),
    Format(kimi_session.FORMAT, kimi_session.is_one, kimi_session.KimiSession),
    Format(droid_stream.FORMAT, droid_stream.is_one, droid_stream.DroidStream),
    Format(github_actions.FORMAT, github_actions.is_one, github_actions.GithubActions),
    Format(dbt_results.FORMAT, dbt_results.is_one, dbt_results.DbtResults),
    Format(openlineage.FORMAT, openlineage.is_one, openlineage.OpenLineage, openlineage.key_of),
    Format(temporal_history.FORMAT, temporal_history.is_one, temporal_history.TemporalHistory),
    *(
        Format(name, agent_stream.printed_by(agent), agent_stream.reader_of(agent))
        for name, agent in agent_stream.PRINTED.items()
    ),
    Format("openhands-output", _is_openhands_output, openhands.OpenHandsOutput, openhands.key_of_output),
    Format(openhands.FORMAT, openhands.is_one, openhands.OpenHands),
    Format(swe_agent.FORMAT, swe_agent.is_one, swe_agent.SweAgent),
)


class Telling:
    """One reading of a file. Its stories are whole when `events` has ended."""

    def __init__(self, source: Source, *, fallback_us: int) -> None:
        self.source = source
        self._fallback_us = fallback_us
        self.format = ""
        self.stories: dict[str, Story] = {}

    def events(self) -> Iterator[tuple[str, Timed]]:
        """Every event with the key of its story, in the file's order. Raises RunfoldError."""
        records = self.source.records()
        head = list(islice(records, HEAD_RECORDS))
        form = next((form for form in FORMATS if form.is_one(head)), None)
        if form is None:
            raise self._not_known(head[0])
        self.format = form.name
        readers: dict[str, Reader] = {}
        for record in chain(head, records):
            key = form.key(record)
            if key not in readers:
                self.stories[key] = Story(form.name, self._fallback_us)
                readers[key] = form.make(self.stories[key])
            readers[key].record(record)
            yield from self._told(key)
        for key, reader in readers.items():
            reader.end()
            yield from self._told(key)
        for key, story in self.stories.items():
            story.identity = story.identity or f"{form.name}:sha256:{self.source.sha256}:{key}".rstrip(":")

    def _told(self, key: str) -> Iterator[tuple[str, Timed]]:
        pending = self.stories[key].pending
        while pending:
            yield key, pending.popleft()

    def _not_known(self, first: Map) -> RunfoldError:
        found = ", ".join(sorted(str(key)[:40] for key in first)[:8])
        kind = text(first, "type")[:40]
        what = (
            f"its first record has {f'type `{kind}`, and ' if kind else ''}the keys {found}" if found else "it is empty"
        )
        return self.source.refusal(
            f"is JSON, but no session that runfold knows: {what}",
            line=1,
            hint="`runfold import --help` lists the formats",
        )

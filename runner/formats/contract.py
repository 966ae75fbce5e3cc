"""What a parser of an agent's output promises, and the plain facts of each agent's command.

A parser is a state machine over whole lines of one turn's stdout. It does no I/O, and no line makes it raise: what it
does not understand stays in `output.log`, where the whole output is.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Literal

import msgspec

from runfold.events import Event, Failure, Json, Unknown


class Parser:
    """Reads one turn. The attributes say at any time what is known so far; `end` is called once, after the last line.

    `succeeded` is the format's own word: None until it has said how the turn ended. `counted` holds the raw counters
    of each thread whose usage the agent prints cumulatively; the parser of the next turn takes it.
    """

    def __init__(self, counted: Mapping[str, Json]) -> None:
        self.counted: dict[str, Json] = dict(counted)
        self.succeeded: bool | None = None
        self.session_id: str | None = None
        self.final_message: str | None = None
        self.error: Failure | None = None
        self.model: str | None = None

    def line(self, line: str | bytes) -> Sequence[Event | Unknown]:
        """The events of the next line, with or without its line end."""
        raise NotImplementedError

    def end(self) -> Sequence[Event | Unknown]:
        """What is still owed when the output ends: held text, and tools that never returned."""
        return ()


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's way to be started and to speak.

    `says_end`: the format has a success event of its own, and exit code 0 without it is no success.
    `prompt`: how a prompt reaches it. `waits_for_stdin`: it reads an open stdin to its end before it starts.
    `reports_files`: it tells which files its tools write.
    `provider`: whom it asks unless it is configured otherwise, for prices; no event claims it.
    """

    name: str
    programs: tuple[str, ...] = ()
    says_end: bool = True
    prompt: Literal["argument", "stdin", "either"] = "either"
    waits_for_stdin: bool = False
    prints_cost: bool = False
    prints_model: bool = False
    reports_files: bool = True
    provider: str | None = None
    resume: tuple[str, ...] = ()
    resume_after: str | None = None
    resume_before_prompt: bool = False
    resumed_by: Mapping[str, bool] = {}
    options_with_value: frozenset[str] = frozenset()

    def resume_argv(self, argv: Sequence[str], session_id: str) -> tuple[str, ...] | None:
        """The command that goes on with a session; None where this agent, or this argv, has no way to.

        The session's words go right after the word that they belong to, or (codex) right before the prompt. Words that
        continue another session are taken out, so resuming twice is the same as resuming once.
        """
        start = self._program_index(argv)
        # An id with a leading hyphen would be read as an option.
        if not self.resume or start is None or not session_id or session_id.startswith("-"):
            return None
        rest = self._without_session(argv[start:])
        words = tuple(session_id if word == "{session}" else word for word in self.resume)
        if self.resume_after is None:
            place = 1
        elif self.resume_after in rest:
            place = rest.index(self.resume_after) + 1
        else:
            return None
        if self.resume_before_prompt:
            place = max(place, len(rest) - 1 if self._ends_with_prompt(rest) else len(rest))
        return (*argv[:start], *rest[:place], *words, *rest[place:])

    def _program_index(self, argv: Sequence[str]) -> int | None:
        for index, word in enumerate(argv):
            # `npx @openai/codex@latest` names the package, and maybe its version.
            if PurePath(word).name.partition("@")[0] in self.programs:
                return index
        return None

    def _without_session(self, argv: Sequence[str]) -> list[str]:
        kept: list[str] = []
        words = iter(argv)
        for word in words:
            if word not in self.resumed_by:
                kept.append(word)
            elif self.resumed_by[word]:
                next(words, None)
        return kept

    def _ends_with_prompt(self, argv: Sequence[str]) -> bool:
        last, before = argv[-1], argv[-2] if len(argv) > 1 else ""
        if last == "-":
            return True
        return not last.startswith("-") and last != self.resume_after and before not in self.options_with_value

"""What the turns of a run start: the recorded order, its workflow's rules and this host's environment, made into argv.

An order is read from the log, so a value that was hidden there cannot be started again from it; that is said, and
nothing is guessed.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from runfold.errors import InvalidSetting, NotAllowed
from runfold.events import RunQueued
from runfold.redact import REDACTED, secrets_of
from runfold.state import Run
from runfold.workflows import CompletionRules, Workflow
from runner.turn import TurnPlan

FILE_BYTES_MAX = 64 * 1024  # Of a file in a prompt; its end, because logs grow there.
_FILE = re.compile(r"\{file:([^{}\n]{1,400})\}")
_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TMPDIR", "TZ"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "SSL_CERT_FILE", "VIRTUAL_ENV"),
)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    cwd: str | None = None
    prompt: str | None = None
    prompt_file: str | None = None
    format: str | None = None
    max_turns: int = 1
    turn_timeout_seconds: float | None = None
    turn_retries: int = 0
    completion: CompletionRules = CompletionRules()
    watch_logs: tuple[str, ...] = ()
    resume: tuple[str, ...] | None = None
    grace_seconds: float = 5.0
    inherits_stdin: bool = False
    shown: bool = False
    tty: bool = False

    def plan(self, run: Run, turn: int, *, resumes: bool = False) -> tuple[TurnPlan, str | None]:
        """The next turn's plan, and its prompt's digest; files in the prompt are read anew. Raises OSError."""
        prompt = self._prompt(turn)
        argv = self._resumed(run.agent_session_id) if resumes and run.agent_session_id else self.argv
        in_argv = prompt is not None and any("{prompt}" in word for word in argv)
        if in_argv and prompt is not None:
            argv = tuple(word.replace("{prompt}", prompt) for word in argv)
        stdin = b"" if prompt is None or in_argv else prompt.encode()
        plan = TurnPlan(
            argv=tuple(word.replace("{turn}", str(turn)) for word in argv) if self.max_turns > 1 else argv,
            environment=self.environment,
            secrets=self.secrets,
            cwd=self.cwd,
            stdin=None if prompt is None and self.inherits_stdin else stdin,
            grace_seconds=self.grace_seconds,
            timeout_seconds=self.turn_timeout_seconds,
            shown=self.shown,
            tty=self.tty,
        )
        return plan, None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest()

    def _prompt(self, turn: int) -> str | None:
        folder = Path(self.cwd or ".")
        text = self.prompt
        if text is None and self.prompt_file is not None:
            text = (folder / self.prompt_file).read_text(encoding="utf-8", errors="replace")
        if text is None:
            return None
        return _FILE.sub(lambda match: _end_of(folder / match[1]), text.replace("{turn}", str(turn)))

    def _resumed(self, session: str) -> tuple[str, ...]:
        """The argv that goes on with the agent's own session, where the workflow or the format says how."""
        if self.resume is not None:
            return (*self.argv, *(word.replace("{session}", session) for word in self.resume))
        match self.format:
            case "claude" | "gemini":
                return (*self.argv, "--resume", session)
            case "opencode":
                return (*self.argv, "--session", session)
            case "codex":
                return (*self.argv[:-1], "resume", session, self.argv[-1])
            case _:
                return self.argv


def launch_here(order: RunQueued, argv: tuple[str, ...], *, tty: bool) -> Launch:
    """A command in this terminal: our own environment, input and output. `argv` is as typed, before redaction."""
    return Launch(
        argv=argv,
        environment=os.environ,
        secrets=secrets_of(os.environ),
        cwd=order.cwd,
        prompt=order.prompt,
        format=order.format,
        max_turns=order.max_turns,
        completion=rules_of(order),
        grace_seconds=order.grace_seconds,
        inherits_stdin=True,
        shown=True,
        tty=tty,
    )


def launch_of(order: RunQueued, workflow: Workflow | None, *, prompt: str | None = None) -> Launch:
    """A recorded order, carried out from the log. Raises InvalidSetting, NotAllowed."""
    if order.workflow is not None and workflow is None:
        raise InvalidSetting(
            f"workflow `{order.workflow}` is not in the runfold.toml of this server",
            hint="put it back, or cancel the run",
        )
    if any(REDACTED in word for word in order.command):
        raise NotAllowed(
            "the command holds a secret that was not recorded", hint="start it again with `runfold run -- COMMAND`"
        )
    rules = workflow if workflow is not None else Workflow(command=order.command)
    passed = (*_PASSED, *rules.environment) if rules.environment is not None else None
    environment = {name: os.environ[name] for name in passed if name in os.environ} if passed else dict(os.environ)
    return Launch(
        argv=order.command,
        environment=environment,
        secrets=secrets_of(os.environ),
        cwd=order.cwd,
        prompt=order.prompt if prompt is None else prompt,
        prompt_file=rules.prompt_file,
        format=order.format,
        max_turns=order.max_turns,
        turn_timeout_seconds=rules.turn_timeout_seconds,
        turn_retries=rules.turn_retries,
        completion=rules_of(order),
        watch_logs=rules.watch_logs,
        resume=rules.resume,
        grace_seconds=order.grace_seconds,
    )


def rules_of(order: RunQueued) -> CompletionRules:
    return CompletionRules() if order.completion is None else msgspec.convert(order.completion, CompletionRules)


def _end_of(path: Path) -> str:
    """The end of a file, or a word that it is not there: a work log is empty before the first turn."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - FILE_BYTES_MAX))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return f"({path.name} is not there yet)"

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

from eventstore.contract import EventLog
from runfold.errors import InvalidSetting, NotAllowed
from runfold.events import Json, RunQueued, TokenUsage
from runfold.redact import REDACTED, redact, secrets_of
from runfold.state import Run
from runfold.workflows import CompletionRules, Workflow, fill, values_of
from runner.formats.choosing import FORMATS, format_of
from runner.formats.usage import counted_of
from runner.turns.turn import TurnPlan

FILE_BYTES_MAX = 64 * 1024  # Of a file in a prompt; its end, because logs grow there.
_HOLE = re.compile(r"\{(?:file:([^{}\n]{1,400})|([A-Za-z_][A-Za-z0-9_]*))\}")
_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TMPDIR", "TZ"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "SSL_CERT_FILE", "VIRTUAL_ENV"),
)
_RECORDED = ("PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    cwd: str | None = None
    prompt: str | None = None
    """Word for word; `template` and `prompt_file` have holes."""
    template: str | None = None
    prompt_file: str | None = None
    values: Mapping[str, str] = {}
    format: str | None = None
    model: str | None = None
    max_turns: int = 1
    turn_timeout_seconds: float | None = None
    turn_retries: int = 0
    completion: CompletionRules = CompletionRules()
    watch_logs: tuple[str, ...] = ()
    watch_files: bool | None = None
    ignore_files: tuple[str, ...] = ()
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
            stdin=None if prompt is None and self.inherits_stdin and not self._wants_stdin_closed else stdin,
            grace_seconds=self.grace_seconds,
            timeout_seconds=self.turn_timeout_seconds,
            shown=self.shown,
            tty=self.tty,
        )
        return plan, None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest()

    def _prompt(self, turn: int) -> str | None:
        folder = Path(self.cwd or ".")
        text = self.template
        if self.prompt is not None or (text is None and self.prompt_file is None):
            return self.prompt
        if text is None:
            text = (folder / str(self.prompt_file)).read_text(encoding="utf-8", errors="replace")
        values = {**self.values, "turn": str(turn)}
        # One pass: what a caller gave is never looked at for further holes.
        return _HOLE.sub(lambda hole: _end_of(folder / hole[1]) if hole[1] else values.get(hole[2], hole[0]), text)

    def _resumed(self, session: str) -> tuple[str, ...]:
        """The argv that goes on with the agent's own session: as the workflow says, or as the agent is known to."""
        if self.resume is not None:
            return (*self.argv, *(word.replace("{session}", session) for word in self.resume))
        known = FORMATS if self.format is None else (format_of(self.format),)
        return next((found for each in known if (found := each.resume_argv(self.argv, session))), self.argv)

    @property
    def _wants_stdin_closed(self) -> bool:
        return self.format is not None and format_of(self.format).waits_for_stdin


def launch_here(order: RunQueued, workflow: Workflow | None, *, shown: bool, tty: bool) -> Launch:
    """A command or a workflow in this terminal: our own input and output, and for a command all our environment.

    `shown` False: nobody sees it. Raises InvalidSetting, NotAllowed.
    """
    launch = launch_of(msgspec.structs.replace(order, environment={}), workflow)
    return msgspec.structs.replace(launch, inherits_stdin=shown, shown=shown, tty=tty)


def launch_of(order: RunQueued, workflow: Workflow | None) -> Launch:
    """A recorded order, carried out from the log. Raises InvalidSetting, NotAllowed."""
    if order.workflow is not None and workflow is None:
        raise InvalidSetting(
            f"workflow `{order.workflow}` is not in the runfold.toml here", hint="put it back, or cancel the run"
        )
    if any(
        REDACTED in word for command in (order.command, *(step.command for step in order.steps)) for word in command
    ):
        raise NotAllowed(
            "the command holds a secret that was not recorded", hint="start it again with `runfold run -- COMMAND`"
        )
    # A command that was started by hand has all of the environment, and what was recorded of it as it was then.
    workflow = workflow or Workflow(command=order.command, environment=tuple(os.environ))
    values = values_of(workflow, order.payload)
    # The recorded prompt of a template is for readers; the template itself is filled anew for each turn.
    is_template = workflow.prompt is not None and order.prompt == fill(workflow.prompt, values)
    passed = {*_PASSED, *workflow.environment}
    return Launch(
        argv=order.command,
        environment={name: value for name, value in os.environ.items() if name in passed} | order.environment,
        secrets=secrets_of(os.environ),
        cwd=order.cwd,
        prompt=None if is_template else order.prompt,
        template=workflow.prompt if is_template else None,
        prompt_file=workflow.prompt_file,
        values=values,
        format=order.format,
        model=order.model,
        max_turns=order.max_turns,
        turn_timeout_seconds=workflow.turn_timeout_seconds,
        turn_retries=workflow.turn_retries,
        completion=rules_of(order),
        watch_logs=workflow.watch_logs,
        watch_files=workflow.watch_files,
        ignore_files=workflow.ignore_files,
        resume=workflow.resume,
        grace_seconds=order.grace_seconds,
    )


def environment_to_record() -> dict[str, str]:
    """What a typed command meets the same programs with, in another process of the same account: no keys, no tokens."""
    secrets = secrets_of(os.environ)
    found = {name: os.environ[name] for name in _RECORDED if name in os.environ}
    # A value that hides something would, redacted, be another one.
    return {name: value for name, value in found.items() if redact(value, secrets) == value}


async def order_of_run(log: EventLog, run_id: str) -> RunQueued:
    """The order that opened a run. Raises InvalidSetting where it was redacted."""
    async for page in log.read(stream=run_id):
        opened = page.events[0].event() if page.events else None
        if isinstance(opened, RunQueued):
            return opened
        break
    raise InvalidSetting(f"the order of run `{run_id}` can no longer be read", hint="start it again")


async def counted_before(log: EventLog, run_id: str) -> dict[str, Json]:
    """The raw counters that earlier turns left, so that a session that goes on is not counted twice."""
    found: list[TokenUsage] = []
    async for page in log.read(stream=run_id):
        usages = (recorded.event() for recorded in page.events if recorded.type == "token_usage")
        found += [event for event in usages if isinstance(event, TokenUsage)]
    return counted_of(found)


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

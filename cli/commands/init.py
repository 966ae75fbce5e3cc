"""`runfold init`: a `runfold.toml` with a workflow for each coding agent that is found on this machine."""

import shutil
from pathlib import Path

import click

from cli.screen import next_command, talk
from cli.workflow_file import FILE_NAME
from runfold.errors import NotAllowed

_HEAD = """\
# The workflows of this folder: `runfold run --workflow NAME` here, `POST /api/runs` over HTTP.
# `runfold check` validates the file.
"""
_PROMPT = "Read PLAN.md and do the next open item. Say ALL DONE once nothing is left."
# Each agent's non-interactive command; the prompt goes to its standard input, or where `{prompt}` stands.
AGENTS: dict[str, tuple[str, str]] = {
    "codex": ("codex", '["codex", "exec", "--json", "--skip-git-repo-check", "-"]'),
    "claude": ("claude", '["claude", "-p", "--output-format", "stream-json", "--verbose"]'),
    "gemini": ("gemini", '["gemini", "--output-format", "stream-json", "-p", "{prompt}"]'),
    "opencode": ("opencode", '["opencode", "run", "--format", "json", "{prompt}"]'),
}
_SHELL = """
[workflow.hello]
description = "A first run, with no agent at all"
command = ["sh", "-c", "echo hello, {name}; echo ALL DONE"]

[workflow.hello.parameters.name]
default = "world"
description = "whom to greet"
"""


@click.command()
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(*, force: bool) -> None:
    """Write a runfold.toml for the agents found here."""
    path = Path.cwd() / FILE_NAME
    found = [name for name in AGENTS if shutil.which(name)]
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text_for(found))
    except FileExistsError:
        raise NotAllowed(f"`{path}` is there already", hint="`runfold init --force` writes over it") from None
    talk(f"{path} has workflows for: {', '.join([*found, 'hello'])}")
    next_command("runfold check")


def text_for(agents: list[str]) -> str:
    """The file for these agents."""
    return _HEAD + "".join(_workflow(*AGENTS[name]) for name in agents) + _SHELL


def _workflow(name: str, command: str) -> str:
    return f"""
[workflow.{name}]
command = {command}
prompt = "{_PROMPT}"
format = "{name}"
max_turns = 10

[workflow.{name}.completion]
pattern = "ALL DONE"
stop_file = "STOP"
"""

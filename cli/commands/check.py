"""`runfold check`: whether `runfold.toml` is right, and whether what it names is there."""

import shutil
from pathlib import Path

import click

from cli.screen import next_command, talk
from cli.watcher import WATCHER_HINT, is_watcher_there
from cli.workflow_file import FILE_NAME, read_registry
from runfold.errors import NotFound
from runfold.workflows import Workflow


@click.command()
@click.pass_context
def check(context: click.Context) -> None:
    """Validate runfold.toml; exit 1 where a workflow could not start."""
    registry = read_registry()
    if not registry.file:
        raise NotFound(f"there is no `{FILE_NAME}` here or above", hint="`runfold init` writes one")
    is_right = True
    for name, workflow in sorted(registry.workflows.items()):
        problems = problems_of(workflow, Path(registry.folder))
        is_right = is_right and not problems
        click.echo(f"{name}: {'; '.join(problems) if problems else 'ok'}")
        if workflow.watch_files and not is_watcher_there():
            talk(f"{name}: its files are told at the end of each turn; `{WATCHER_HINT}` tells them while it works")
    if not registry.workflows:
        talk(f"`{registry.file}` has no workflows")
    elif is_right:
        next_command(f"runfold run --workflow {next(iter(registry.workflows))}")
    context.exit(0 if is_right else 1)


def problems_of(workflow: Workflow, folder: Path) -> list[str]:
    """What the file itself cannot show: programs and files that are not there, patterns that are none."""
    from runner.patterns import check_pattern

    found: list[str] = []
    workspace = folder / workflow.workspace
    if not workspace.is_dir():
        found.append(f"workspace `{workflow.workspace}` is not a folder")
    commands = [workflow.command, *(step.command for step in workflow.steps)]
    for program in dict.fromkeys(command[0] for command in commands if command):
        if "{" not in program and shutil.which(program) is None and not (workspace / program).is_file():
            found.append(f"`{program}` is not on the PATH")
    if workflow.prompt_file is not None and not (workspace / workflow.prompt_file).is_file():
        found.append(f"prompt file `{workflow.prompt_file}` is not there")
    if workflow.completion.pattern is not None and (said := check_pattern(workflow.completion.pattern)):
        found.append(f"completion pattern: {said}")
    return found

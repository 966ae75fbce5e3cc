"""`runfold complete` and `runfold fail`: the end of a run whose steps are driven by hand, said by its owner."""

import click

from cli.reading import open_runs, remote_of, run_argument, settings_of
from cli.runs import find_run
from cli.screen import next_command, talk
from cli.wishing import execute, finished
from runfold.commands import Command, Complete, Fail
from runfold.events import Failure

message_option = click.option("--message", default="", help="What there is to say about it.")


@click.command()
@run_argument
@message_option
@click.pass_context
def complete(context: click.Context, *, run_text: str, message: str) -> None:
    """Complete a run that is driven by hand."""
    _end(context, run_text, "complete", Complete(message=message), message)


@click.command()
@run_argument
@message_option
@click.pass_context
def fail(context: click.Context, *, run_text: str, message: str) -> None:
    """Fail a run that is driven by hand."""
    _end(context, run_text, "fail", Fail(error=Failure(code="SYS_FAILED", message=message)), message)


def _end(context: click.Context, run_text: str, action: str, command: Command, message: str) -> None:
    settings = settings_of(context)
    with open_runs(settings) as runs:
        run = find_run(runs, run_text)
        if (remote := remote_of(runs)) is not None:
            status = remote.control(run.id, action, message=message).status
        else:
            status = finished(execute(settings, run.id, command, run.tenant)).run.status
    talk(f"run {run.id} is {status}")
    next_command(f"runfold status {run.id}")

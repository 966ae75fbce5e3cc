"""`runfold emit TYPE key=value…`: print one telemetry line for the run around this program."""

import runpy
import sys

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="TYPE [KEY=VALUE]…", nargs=-1, type=click.UNPROCESSED, required=True)
def emit(arguments: tuple[str, ...]) -> None:
    """Print a telemetry line for the run around this program."""
    sys.argv = ["runfold emit", *arguments]
    runpy.run_module("runfold.emit", run_name="__main__")

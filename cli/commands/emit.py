"""`runfold emit TYPE key=value…`: print one telemetry line for the run around this program."""

import sys

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="TYPE [KEY=VALUE]…", nargs=-1, type=click.UNPROCESSED, required=True)
def emit(arguments: tuple[str, ...]) -> None:
    """Print a telemetry line for the run around this program."""
    from runfold.emit import main

    sys.exit(main(arguments))

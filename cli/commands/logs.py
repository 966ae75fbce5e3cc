"""`runfold logs RUN`: what the run's command wrote, as it was stored."""

import sys
import time

import click

from cli.archives import open_runs_or_archive
from cli.reading import run_argument
from cli.runs import Runs, find_run
from runfold.errors import NotFound


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run rests.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last so many lines.")
@click.pass_context
def logs(context: click.Context, *, run_text: str, follow: bool, tail: int | None) -> None:
    """Print what a run's command wrote, both streams in order."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        print_output(runs, find_run(runs, wanted).id, follow=follow, tail=tail)


def print_output(runs: Runs, run_id: str, *, follow: bool, tail: int | None) -> None:
    offset: int | None = None
    while True:
        # Asked before the copy, so that what was written up to the end is printed too.
        last = not follow or runs.rests(run_id)
        if offset is None:
            offset = runs.output_start(run_id, tail=tail)
        while offset is not None and (chunk := runs.output(run_id, offset=offset)):
            sys.stdout.buffer.write(chunk)
            offset += len(chunk)
        sys.stdout.buffer.flush()
        if last and offset is None:
            raise NotFound(
                f"run `{run_id}` has no output",
                hint=f"`runfold events {run_id}` shows what was recorded",
                run_id=run_id,
            )
        if last:
            return
        time.sleep(runs.poll_seconds)

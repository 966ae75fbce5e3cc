"""`runfold steps RUN`: the run's steps, how often each was tried and what became of it."""

import click

from cli.archives import open_runs_or_archive
from cli.reading import json_option, print_json, run_argument
from cli.runs import find_run
from cli.screen import cost, duration, plain, table

STATUSES = ("pending", "running", "completed", "failed", "needs_rerun", "skipped", "cancelled")


@click.command()
@run_argument
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only steps in this status; repeatable.")
@json_option
@click.pass_context
def steps(context: click.Context, *, run_text: str, status: tuple[str, ...], as_json: bool) -> None:
    """List a run's steps."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        found = runs.steps(find_run(runs, wanted).id, status=status)
    if as_json:
        print_json(found)
        return
    table(
        ("STEP", "STATUS", "TRIES", "ELAPSED", "COST", "NEEDS"),
        [
            (
                plain(item.id, 40),
                "cached" if item.cache_hit and item.status == "completed" else item.status,
                str(item.attempt),
                duration(item.duration_ms),
                cost(item.cost_usd),
                plain(" ".join(item.needs) or "-", 60),
            )
            for item in found.items
        ],
        colour_column=1,
    )

"""`runfold events RUN` and `runfold history RUN`: what was recorded, and how the status went."""

import click
import msgspec

from cli.archives import open_runs_or_archive
from cli.lines import event_line
from cli.reading import json_option, print_json, run_argument
from cli.runs import find_run
from cli.screen import duration, plain, table
from runfold.envelope import envelope_json


@click.command()
@run_argument
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only events after this position.")
@click.option("--type", "types", multiple=True, help="Only events of this type; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@json_option
@click.pass_context
def events(
    context: click.Context, *, run_text: str, after: int, types: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """List a run's recorded events, oldest first."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        page = runs.events(find_run(runs, wanted), after=after, types=types, limit=limit)
    if as_json:
        items = [msgspec.Raw(envelope_json(recorded)) for recorded in page.items]
        print_json({"items": items, "total": page.total, "next_cursor": page.next_cursor})
        return
    for recorded in page.items:
        click.echo(f"{recorded.position:>7}  {event_line(recorded, indent=9)}")


@click.command()
@run_argument
@json_option
@click.pass_context
def history(context: click.Context, *, run_text: str, as_json: bool) -> None:
    """List a run's status changes, oldest first."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        transitions = runs.history(find_run(runs, wanted).id)
    if as_json:
        print_json({"items": transitions, "total": len(transitions), "next_cursor": None})
        return
    rows = [
        (
            str(item.at),
            str(item.from_status or "-"),
            str(item.to_status),
            plain(item.reason_code or "-", 30),
            duration(item.duration_ms),
            plain(str(item.actor), 40),
        )
        for item in transitions
    ]
    table(("AT", "FROM", "TO", "REASON", "LASTED", "ACTOR"), rows, colour_column=2)

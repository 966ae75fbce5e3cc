"""`runfold events RUN` and `runfold history RUN`: what was recorded, and how the status went."""

import click
import msgspec

from cli.lines import event_line
from cli.reading import find_run, json_option, open_views, print_json, run_argument, settings_of
from cli.screen import duration, plain, table
from eventstore.reading import open_reader, read_page
from projections.history import run_history
from runfold.envelope import Recorded, envelope_json


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
    settings = settings_of(context)
    with open_views(settings) as views:
        run = find_run(views, run_text)
    connection = open_reader(settings.data)
    found: list[Recorded] = []
    try:
        while True:
            page = read_page(connection, after=after, stream=run.id)
            found += [recorded for recorded in page.events if not types or recorded.type in types]
            if not page.events or (limit is not None and len(found) >= limit):
                break
            after = page.scanned_to
    finally:
        connection.close()
    kept = found if limit is None else found[:limit]
    if as_json:
        cursor = kept[-1].cursor if len(kept) < len(found) else None
        items = [msgspec.Raw(envelope_json(recorded)) for recorded in kept]
        print_json({"items": items, "total": None if types else run.version, "next_cursor": cursor})
        return
    for recorded in kept:
        click.echo(f"{recorded.position:>7}  {event_line(recorded)}")


@click.command()
@run_argument
@json_option
@click.pass_context
def history(context: click.Context, *, run_text: str, as_json: bool) -> None:
    """List a run's status changes, oldest first."""
    with open_views(settings_of(context)) as views:
        transitions = run_history(views.connection, find_run(views, run_text).id)
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

"""`runfold events RUN` and `runfold history RUN`: what was recorded, and how the status went."""

import click
import msgspec

from cli.archives import open_runs_or_archive
from cli.lines import event_line
from cli.reading import json_option, open_runs, print_json, run_argument, settings_of
from cli.runs import find_run
from cli.screen import duration, plain, table, talk
from cli.vocabulary import tell_unknown_types
from runfold.envelope import envelope_json
from runfold.errors import BadRequest

EFFECTS_MAX = 200  # `runfold audit --cause` lists any number.


@click.command()
@run_argument
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only events after this position.")
@click.option("--type", "types", multiple=True, help="Only events of this type; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--causes", "event", metavar="ID", help="What made this event, and what it made; its position does too.")
@json_option
@click.pass_context
def events(
    context: click.Context, *, run_text: str, after: int, types: tuple[str, ...], limit: int | None,
    event: str | None, as_json: bool,
) -> None:  # fmt: skip
    """List a run's recorded events, oldest first."""
    if event is not None:
        if types or after:
            raise BadRequest("`--causes` asks for one event", hint="leave `--type` and `--after` out")
        _causes(context, run_text, event, limit=min(limit or EFFECTS_MAX, EFFECTS_MAX), as_json=as_json)
        return
    tell_unknown_types(types)
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        page = runs.events(find_run(runs, wanted), after=after, types=types, limit=limit)
    if as_json:
        items = [msgspec.Raw(envelope_json(recorded)) for recorded in page.items]
        print_json({"items": items, "total": page.total, "next_cursor": page.next_cursor})
        return
    for recorded in page.items:
        click.echo(f"{recorded.position:>7}  {event_line(recorded, indent=9)}")


def _causes(context: click.Context, run_text: str, event: str, *, limit: int, as_json: bool) -> None:
    from cli.commands.audit import audit_line

    with open_runs(settings_of(context)) as runs:
        found = runs.causes(find_run(runs, run_text).id, event, limit=limit)
    if as_json:
        print_json(found)
        return
    for depth, item in enumerate((found.event, *found.causes)):
        click.echo(f"{'because of' if depth else '':<11}{audit_line(item)}")
    if found.causes_cut:
        talk(f"and so on: `--causes {found.causes[-1].position}` goes on")
    for item in found.effects:
        click.echo(f"{'it made':<11}{audit_line(item)}")
    if found.next_cursor is not None:
        talk(f"and more: `runfold audit --cause {found.event.id}` lists them all")


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

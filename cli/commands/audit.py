"""`runfold audit`: who did what when, over all runs; to look at, to count, or to take away as a file."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import msgspec

from cli.formats import format_options, wanted_format
from cli.reading import json_option, open_runs, print_json, settings_of
from cli.runs import Runs, find_run
from cli.screen import colour, plain, table, talk
from cli.times import checked_moment
from cli.vocabulary import tell_unknown_types
from projections.audit.answers import GROUPS, AuditCount, AuditItem
from projections.audit.question import LIMIT_MAX, AuditFilter

ROWS_MAX = 1_000_000  # Of one answer, as of a file.


@click.command()
@click.argument("run_text", metavar="[RUN]", required=False)
@click.option("--actor", multiple=True, help="`user:anna`, or a kind such as `user`; repeatable.")
@click.option("--type", "types", multiple=True, help="An event type such as cancel_requested; repeatable.")
@click.option(
    "--class", "classes", multiple=True, type=click.Choice(("lifecycle", "activity", "usage", "audit")),
    help="Repeatable.",
)  # fmt: skip
@click.option("--workflow", help="Only runs of this workflow.")
@click.option("--path", help="A file, a folder ending in `/`, or a pattern such as 'src/*.py'.")
@click.option("-q", "--text", "q", help="Only what says this.")
@click.option("--since", help="Recorded at this time or later: 7d (so long ago), or 2026-01-31T12:00:00Z.")
@click.option("--until", help="Recorded before this time.")
@click.option("--cause", help="What the event with this id caused.")
@click.option("--tenant", help="Only what concerns this tenant.")
@click.option("--by", type=click.Choice(GROUPS), help="Count instead of listing.")
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), help="At most so many.  [default: 50; all of a file]")
@format_options
@json_option
@click.pass_context
def audit(
    context: click.Context, /, *, run_text: str | None, types: tuple[str, ...], classes: tuple[str, ...],
    format_name: str | None, since: str | None, until: str | None,
    output: Path | None, as_json: bool, by: str | None, limit: int | None, **filters: object,
) -> None:  # fmt: skip
    """List who did what when, newest first."""
    away = wanted_format(format_name, output, as_json=as_json)
    count = limit or (50 if away is None else ROWS_MAX)
    tell_unknown_types(types)
    filters |= {"since": since and checked_moment("since", since), "until": until and checked_moment("until", until)}
    with open_runs(settings_of(context)) as runs:
        run_id = None if run_text is None else find_run(runs, run_text).id
        wanted = msgspec.convert(
            {"run_id": run_id, "type": types, "class": classes, "limit": min(count, LIMIT_MAX), **filters},
            AuditFilter,
        )
        if by is not None:
            counts = runs.audit_counts(wanted, by=by)
            if away is not None:
                away.write(AuditCount, counts)
            elif as_json:
                print_json({"items": counts, "total": len(counts), "next_cursor": None})
            else:
                table(("COUNT", by.upper()), [(str(item.count), plain(item.key or "-", 80)) for item in counts])
        elif as_json and count <= LIMIT_MAX:
            print_json(runs.audit(wanted))
        elif away is not None:
            away.write(AuditItem, _items(runs, wanted, count))
        elif as_json:
            print_json({"items": list(_items(runs, wanted, count)), "total": None, "next_cursor": None})
        else:
            _print(_items(runs, wanted, count + 1), count)


def _items(runs: Runs, wanted: AuditFilter, count: int) -> Iterator[AuditItem]:
    left = count
    while left > 0:
        page = runs.audit(wanted)
        yield from page.items[:left]
        left -= len(page.items)
        if page.next_cursor is None:
            return
        wanted = msgspec.structs.replace(wanted, cursor=page.next_cursor, limit=max(1, min(left, LIMIT_MAX)))


def _print(items: Iterator[AuditItem], count: int) -> None:
    last = None
    for last in islice(items, count):
        click.echo(audit_line(last))
    if last is None:
        talk("note: nothing in the audit is so")
    elif next(items, None) is not None:
        talk(f"note: cut after {count} events; --limit {count * 10} shows more")


def audit_line(item: AuditItem) -> str:
    """Position, time, actor, run, type and what it says, for a terminal."""
    what = " ".join(plain(text, 100) for text in (item.path, item.text) if text)
    when = item.recorded_at[:19].replace("T", " ")
    head = f"{item.position:>7}  {when}  {plain(item.actor, 24):<16} {item.run_id[:12]:<12}"
    return f"{head}  {colour(f'{item.type:<20}', 'yellow' if item.event_class == 'audit' else None)} {what}"

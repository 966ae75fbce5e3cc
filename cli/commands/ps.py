"""`runfold ps`: the runs, newest first."""

from collections.abc import Iterator
from pathlib import Path

import click
from msgspec.structs import replace

from cli.formats import format_options, wanted_format
from cli.reading import json_option, open_runs, print_json, settings_of
from cli.runs import Runs, list_all
from cli.screen import cost, duration, elapsed_ms, plain, short_ids, table
from projections.run_list import STATUSES, RunFilter
from runfold.snapshot import Snapshot

PAGE_RUNS = 200


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Every run, however many there are.")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only runs in this status; repeatable.")
@click.option("--workflow", help="Only runs of this workflow.")
@click.option("--limit", type=click.IntRange(1, PAGE_RUNS), help="At most so many.  [default: 50; all of a file]")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids, whole.")
@format_options
@json_option
@click.pass_context
def ps(
    context: click.Context, *, everything: bool, status: tuple[str, ...], workflow: str | None, limit: int | None,
    quiet: bool, format_name: str | None, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """List runs, newest first."""
    away = wanted_format(format_name, output, as_json=as_json)
    wanted = RunFilter(tenant=None, status=status, workflow=workflow, limit=PAGE_RUNS if everything else limit or 50)
    with open_runs(settings_of(context)) as runs:
        if away is not None:
            away.write(Snapshot, _pages(runs, replace(wanted, limit=limit or PAGE_RUNS), is_one=limit is not None))
            return
        found = list_all(runs, wanted) if everything else runs.list_runs(wanted)
    if as_json:
        print_json(found)
        return
    if quiet:
        for item in found.items:
            click.echo(item.id)
        return
    lost = _lost(context, found.items)
    ids = short_ids([item.id for item in found.items])
    table(
        ("ID", "STATUS", "REASON", "ELAPSED", "COST", "TITLE"),
        [_row(item, ids[item.id], lost.get(item.id)) for item in found.items],
        colour_column=1,
    )
    if found.total > len(found.items):
        click.echo(f"{found.total - len(found.items)} more: runfold ps -a", err=True)


def _pages(runs: Runs, wanted: RunFilter, *, is_one: bool) -> Iterator[Snapshot]:
    while True:
        page = runs.list_runs(wanted)
        yield from page.items
        if is_one or page.next_cursor is None:
            return
        wanted = replace(wanted, cursor=page.next_cursor)


def _lost(context: click.Context, items: list[Snapshot]) -> dict[str, float]:
    """Run → seconds since its driver was heard of, where that is gone; what is seen is not written."""
    settings = settings_of(context)
    if settings.url or not any(item.worker for item in items):
        return {}
    from runner.recovering.lost import lost_drivers

    return lost_drivers(settings.data)


def _row(item: Snapshot, short: str, lost_seconds: float | None) -> tuple[str, ...]:
    lost = "" if lost_seconds is None else f" (driver lost {duration(lost_seconds * 1000)} ago; runfold recover)"
    return (
        short,
        f"{item.status}{lost}",
        plain(item.reason_code or "-", 30),
        duration(elapsed_ms(item)),
        cost(item.stats.cost_usd),
        plain(item.title or item.workflow or "-", 80),
    )

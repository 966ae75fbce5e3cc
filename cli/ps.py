"""`runfold ps`: the runs, newest first."""

import click

from cli.reading import json_option, open_runs, print_json, settings_of
from cli.runs import list_all
from cli.screen import cost, duration, elapsed_ms, plain, short_ids, table
from projections.run_list import STATUSES, RunFilter
from runfold.snapshot import Snapshot

PAGE_RUNS = 200


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Every run, however many there are.")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only runs in this status; repeatable.")
@click.option("--workflow", help="Only runs of this workflow.")
@click.option("--limit", type=click.IntRange(1, PAGE_RUNS), default=50, show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Only the ids, whole.")
@json_option
@click.pass_context
def ps(
    context: click.Context,
    *,
    everything: bool,
    status: tuple[str, ...],
    workflow: str | None,
    limit: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    wanted = RunFilter(tenant=None, status=status, workflow=workflow, limit=PAGE_RUNS if everything else limit)
    with open_runs(settings_of(context)) as runs:
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


def _lost(context: click.Context, items: list[Snapshot]) -> dict[str, float]:
    """Run → seconds since its driver was heard of, where that is gone; what is seen is not written."""
    settings = settings_of(context)
    if settings.url or not any(item.worker for item in items):
        return {}
    from runner.lost import lost_drivers

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

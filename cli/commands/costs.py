"""`runfold costs`: tokens and money, by model, day, workflow, run or step."""

from collections.abc import Iterator
from pathlib import Path

import click

from cli.formats import format_options, wanted_format
from cli.reading import json_option, open_runs, print_json, settings_of
from cli.runs import Runs
from cli.screen import cost, plain, table, talk
from projections.spending import BudgetItem, BudgetList
from projections.usage import GROUPS, LIMIT_MAX, Cost
from runfold.limits import amount


@click.command()
@click.option("--by", type=click.Choice(GROUPS), default="model", show_default=True)
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), help="At most so many.  [default: 50; all of a file]")
@click.option("--budgets", is_flag=True, help="What is spent and left of each budget of runfold.toml instead.")
@format_options
@json_option
@click.pass_context
def costs(
    context: click.Context, *, by: str, limit: int | None, budgets: bool, format_name: str | None,
    output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show tokens and cost, the dearest first."""
    away = wanted_format(format_name, output, as_json=as_json)
    with open_runs(settings_of(context)) as runs:
        if budgets:
            left = runs.budgets()
            if away is None:
                _show_budgets(left, as_json=as_json)
            else:
                away.write(BudgetItem, left.items)
            return
        if away is not None:
            away.write(Cost, _pages(runs, by, limit))
            return
        found = runs.costs(by=by, limit=limit or 50)
    if as_json:
        print_json(found)
        return
    rows = [_row(item, item.key or "-") for item in found.items]
    table(("COST", "INPUT", "CACHED", "OUTPUT", "RUNS", by.upper()), [*rows, _row(found.sum, "all")])
    if found.sum.unpriced:
        talk(f"note: {found.sum.unpriced} reports have no known price and are not in the cost")
    if found.next_cursor is not None:
        talk(f"{found.total - len(found.items)} more: runfold costs --by {by} --limit {LIMIT_MAX}")


def _pages(runs: Runs, by: str, limit: int | None) -> Iterator[Cost]:
    offset: int | None = 0
    while offset is not None:
        page = runs.costs(by=by, limit=limit or LIMIT_MAX, offset=offset)
        yield from page.items
        offset = int(page.next_cursor) if page.next_cursor and limit is None else None


def _show_budgets(found: BudgetList, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if not found.items:
        talk("there are no budgets, or nothing is spent of them; `[budgets.day]` in runfold.toml sets one")
        return
    rows = [
        (amount(it.limit, it.spent), amount(it.limit, it.remaining), amount(it.limit, it.threshold), it.limit,
         it.on_exceed, it.per, f"{it.scope} {plain(it.name, 60)}".rstrip())
        for it in found.items
    ]  # fmt: skip
    table(("SPENT", "LEFT", "BUDGET", "OF", "THEN", "PER", "SCOPE"), rows)


def _row(item: Cost, key: str) -> tuple[str, ...]:
    tokens = (item.input_tokens, item.cache_read_tokens, item.output_tokens, item.runs)
    unknown = "+?" if item.unpriced else ""
    return (cost(item.cost_usd) + unknown, *(f"{number:,}" for number in tokens), plain(key, 60))

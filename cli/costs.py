"""`runfold costs`: tokens and money, by model, day, workflow, run or step."""

import click

from cli.reading import json_option, open_runs, print_json, settings_of
from cli.screen import cost, plain, table, talk
from projections.spending import BudgetList
from projections.usage import GROUPS, LIMIT_MAX, Cost
from runfold.limits import amount


@click.command()
@click.option("--by", type=click.Choice(GROUPS), default="model", show_default=True)
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=50, show_default=True)
@click.option("--budgets", is_flag=True, help="What is spent and left of each budget of runfold.toml instead.")
@json_option
@click.pass_context
def costs(context: click.Context, *, by: str, limit: int, budgets: bool, as_json: bool) -> None:
    """Show tokens and cost, the dearest first."""
    with open_runs(settings_of(context)) as runs:
        if budgets:
            _show_budgets(runs.budgets(), as_json=as_json)
            return
        found = runs.costs(by=by, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [_row(item, item.key or "-") for item in found.items]
    table(("COST", "INPUT", "CACHED", "OUTPUT", "RUNS", by.upper()), [*rows, _row(found.sum, "all")])
    if found.sum.unpriced:
        talk(f"note: {found.sum.unpriced} reports have no known price and are not in the cost")
    if found.next_cursor is not None:
        talk(f"{found.total - len(found.items)} more: runfold costs --by {by} --limit {LIMIT_MAX}")


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

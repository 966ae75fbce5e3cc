"""`runfold sql QUERY`: one's own question to the log and the views, which it can only read."""

from pathlib import Path

import click

from cli.data_folder import need_folder
from cli.formats import format_options, wanted_format
from cli.reading import json_option, print_json, settings_of
from cli.screen import plain, table, talk
from projections.sql import ROWS_MAX, SECONDS_MAX, Questions

LIMIT_MAX = 1_000_000


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=ROWS_MAX, show_default=True, help="Rows at most.")
@click.option("--seconds", type=click.FloatRange(0.1, 3_600), default=SECONDS_MAX, show_default=True)
@format_options
@json_option
@click.pass_context
def sql(
    context: click.Context, *, query: str, limit: int, seconds: float, format_name: str | None, output: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Ask the log and the views in SQL; docs/sql.md lists the tables. Nothing can be changed."""
    away = wanted_format(format_name, output, as_json=as_json)
    settings = settings_of(context)
    need_folder(settings, "sql")
    questions = Questions(Path(settings.data))
    try:
        columns, found, is_cut = questions.ask(query, limit=limit, seconds=seconds)
    finally:
        questions.close()
    rows = [[_value(value) for value in row] for row in found]
    if away is not None:
        away.write_rows(columns, rows)
    elif as_json:
        items = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"items": items, "total": None if is_cut else len(items), "next_cursor": None})
    else:
        table(columns, [[plain("-" if value is None else str(value), 80) for value in row] for row in rows])
    if is_cut:
        talk(f"note: cut after {limit} rows; --limit {limit * 10} shows more")


def _value(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value

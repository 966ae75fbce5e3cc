"""`runfold report`, `why` and `diff`: what a run came to, what led there, and what another one did otherwise."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.archives import open_runs_or_archive
from cli.reading import RunId, json_option, open_runs, print_json, run_argument, settings_of
from cli.runs import Runs, find_run
from cli.screen import cost, duration, plain, talk
from runfold.errors import NotFound, Trimmed

if TYPE_CHECKING:
    from runfold.difference import Difference, FileDifference, Sides

FILES_SHOWN_MAX = 50
EVENTS_SHOWN = 4  # Of the chain of causes; `runfold events RUN --causes` shows the whole.


@click.command()
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it into this file.")
@json_option
@click.pass_context
def report(context: click.Context, *, run_text: str, output: Path | None, as_json: bool) -> None:
    """Write a run up as Markdown: progress, steps, costs, causes and graph."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        run = find_run(runs, wanted)
        text = runs.report(run.id)
    if output is not None:
        _write(output, text)
        talk(f"{output} is written")
    elif as_json:
        print_json({"run_id": run.id, "markdown": text})
    else:
        click.echo(text, nl=False)


@click.command()
@run_argument
@json_option
@click.pass_context
def why(context: click.Context, *, run_text: str, as_json: bool) -> None:
    """Say what led to a run's present status, the nearest cause first."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        run = find_run(runs, wanted)
        found = runs.why(run.id)
        made = None if as_json else _recorded_as(runs, run.id)
    if as_json:
        print_json(found)
        return
    for cause in found.causes:
        click.echo(plain(cause, 500))
    if made:
        click.echo(made)


def _recorded_as(runs: Runs, run_id: str) -> str | None:
    """The event that made the status, and the chain of those that made it."""
    changes = runs.history(run_id)
    if not changes:
        return None
    try:
        found = runs.causes(run_id, str(changes[-1].position), limit=1)
    except (NotFound, Trimmed):
        return None  # It was trimmed; what it came to is all that is left.
    told = [f"{item.type} ({item.position})" for item in (found.event, *found.causes[:EVENTS_SHOWN])]
    return f"Recorded as {' because of '.join(told)}{' …' if len(found.causes) > EVENTS_SHOWN else ''}."


@click.command()
@click.argument("first", metavar="A", type=RunId())
@click.argument("second", metavar="[B]", type=RunId(), required=False)
@click.option("--at", metavar="POSITION|TIME", help="A as it was: 1234, v7, or 2026-01-31T12:00:00Z.")
@click.option("--other-at", metavar="POSITION|TIME", help="B as it was.")
@json_option
@click.pass_context
def diff(
    context: click.Context, *, first: str, second: str | None, at: str | None, other_at: str | None, as_json: bool
) -> None:
    """Show where two runs, or two moments of A, part, and what each then made, took and cost."""
    with open_runs(settings_of(context)) as runs:
        a = find_run(runs, first)
        b = a if second is None else find_run(runs, second)
        found = runs.difference(a.id, b.id, at=at, other_at=other_at)
    if as_json:
        print_json(found)
        return
    for label, text in _lines(found):
        click.echo(f"{label:<11}{text}")


def _lines(found: "Difference") -> Iterator[tuple[str, str]]:
    yield "A", f"{found.a}  {found.status.a} {found.reason.a}"
    yield "B", f"{found.b}  {found.status.b} {found.reason.b}"
    if found.divergence is None:
        yield "Path", "both did the same"
    else:
        yield "Path", f"alike for {found.divergence.after:,} events, then"
        for name, deed in (("  a", found.divergence.a), ("  b", found.divergence.b)):
            yield name, "nothing more" if deed is None else f"#{deed.version} {plain(deed.text)}"
    for step in found.steps:
        yield (
            "Step",
            f"{plain(step.step, 60)}: {_either(step.status.a)} → {_either(step.status.b)}"
            f" (attempt {_number(step.attempts.a)} → {_number(step.attempts.b)})",
        )
    yield from _files(found.files)
    yield "Cost", f"{cost(found.cost_usd.a)} → {cost(found.cost_usd.b)}"
    yield "Time", f"{duration(found.duration_ms.a)} → {duration(found.duration_ms.b)}"
    yield "Tokens", _figures(found.tokens)
    yield "Turns", _figures(found.turns)


def _files(files: "tuple[FileDifference, ...]") -> Iterator[tuple[str, str]]:
    words = {"only_a": "only in a", "only_b": "only in b", "content": "other content"}
    for file in files[:FILES_SHOWN_MAX]:
        yield "File", f"{plain(file.path)}: {words[file.change]}"
    if len(files) > FILES_SHOWN_MAX:
        yield "", f"and {len(files) - FILES_SHOWN_MAX} more; `--json` lists them all"


def _figures(sides: "Sides") -> str:
    return f"{_number(sides.a)} → {_number(sides.b)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _either(status: str) -> str:
    return status or "not there"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"`{path}` cannot be written: {error.strerror or error}") from error

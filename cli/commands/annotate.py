"""`runfold note` and `runfold label`: what a person writes on a run, also on one that is over."""

import click

from cli.reading import json_option, open_runs, print_json, remote_of, run_argument, settings_of
from cli.runs import find_run
from cli.screen import next_command, plain, table, talk
from cli.wishing import execute, finished
from runfold.commands import Annotate
from runfold.errors import BadRequest
from runfold.snapshot import Snapshot, snapshot


@click.command()
@run_argument
@click.argument("text", nargs=-1, required=True)
@click.pass_context
def note(context: click.Context, *, run_text: str, text: tuple[str, ...]) -> None:
    """Add a note to a run."""
    run = _annotate(context, run_text, Annotate(note=" ".join(text)))
    talk(f"run {run.id} has the note")
    next_command(f"runfold events {run.id} --type note_added")


@click.command()
@run_argument
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--remove", multiple=True, metavar="KEY", help="Take this label away; repeatable.")
@click.option("--title", help="Another title for the run.")
@json_option
@click.pass_context
def label(
    context: click.Context,
    *,
    run_text: str,
    pairs: tuple[str, ...],
    remove: tuple[str, ...],
    title: str | None,
    as_json: bool,
) -> None:
    """Label a run, or show its labels; `runfold ps` and the dashboard find runs by them."""
    labels: dict[str, str | None] = dict.fromkeys(remove)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadRequest(f"`{plain(pair, 40)}` is no label", hint="write KEY=VALUE; --remove KEY takes one away")
        labels[key] = value
    if labels or title is not None:
        run = _annotate(context, run_text, Annotate(title=title, labels=labels))
    else:
        with open_runs(settings_of(context)) as runs:
            run = find_run(runs, run_text)
    if as_json:
        print_json({"id": run.id, "title": run.title, "labels": run.labels})
        return
    table(("LABEL", "VALUE"), [(plain(key, 60), plain(value, 120)) for key, value in sorted(run.labels.items())])


def _annotate(context: click.Context, run_text: str, command: Annotate) -> Snapshot:
    settings = settings_of(context)
    with open_runs(settings) as runs:
        found = find_run(runs, run_text)
        if (remote := remote_of(runs)) is not None:
            return remote.annotate(found.id, command)
    executed = finished(execute(settings, found.id, command, found.tenant))
    return snapshot(executed.run, position=max((event.position for event in executed.events), default=found.position))

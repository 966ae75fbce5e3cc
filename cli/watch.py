"""`runfold watch RUN` and `runfold wait RUN`: follow a run until it rests; no server needed."""

import time

import click

from cli.lines import event_line
from cli.reading import find_run, follow, open_views, run_argument, settings_of
from cli.screen import next_command
from projections.runs import get_run
from projections.views import Views
from runfold.envelope import envelope_json
from runfold.state import RESTING

EXIT_CODES = {"completed": 0, "failed": 1, "stopped": 75, "cancelled": 143}


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="One event a line, as the API gives it.")
@click.option("--compact", is_flag=True, help="Leave out the command's own output.")
@click.pass_context
def watch(context: click.Context, *, run_text: str, as_json: bool, compact: bool) -> None:
    """Follow a run's events until it rests; the exit code says how it ended."""
    settings = settings_of(context)
    with open_views(settings) as views:
        run_id = find_run(views, run_text).id
        for recorded in follow(settings, views, run_id, after=0):
            if as_json:
                click.echo(envelope_json(recorded))
            elif not (compact and recorded.type == "subprocess_output"):
                click.echo(event_line(recorded))
        code = _exit_code(views, run_id)
    next_command(f"runfold status {run_id}")
    context.exit(code)


@click.command()
@run_argument
@click.pass_context
def wait(context: click.Context, *, run_text: str) -> None:
    """Wait until a run rests: exit 0 completed, 1 failed, 75 stopped, 143 cancelled."""
    settings = settings_of(context)
    with open_views(settings) as views:
        snapshot = find_run(views, run_text)
        if snapshot.status not in RESTING:
            for _ in follow(settings, views, snapshot.id, after=snapshot.position):
                time.sleep(0)
        code = _exit_code(views, snapshot.id)
    context.exit(code)


def _exit_code(views: Views, run_id: str) -> int:
    snapshot = get_run(views.connection, run_id, tenant=None)
    return EXIT_CODES.get(snapshot.status or "", 1) if snapshot else 1

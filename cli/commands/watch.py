"""`runfold watch RUN` and `runfold wait RUN`: follow a run until it rests; no server needed."""

import click

from cli.lines import event_line
from cli.reading import open_runs, run_argument, settings_of
from cli.runs import Runs, find_run
from cli.screen import next_command
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
    with open_runs(settings_of(context)) as runs:
        run_id = find_run(runs, run_text).id
        for recorded in runs.follow(run_id, after=0):
            if as_json:
                click.echo(envelope_json(recorded))
            elif not (compact and recorded.type == "subprocess_output"):
                click.echo(event_line(recorded))
        code = _exit_code(runs, run_id)
    next_command(f"runfold status {run_id}")
    context.exit(code)


@click.command()
@run_argument
@click.pass_context
def wait(context: click.Context, *, run_text: str) -> None:
    """Wait until a run rests: exit 0 completed, 1 failed, 75 stopped, 143 cancelled."""
    with open_runs(settings_of(context)) as runs:
        snapshot = find_run(runs, run_text)
        if snapshot.status not in RESTING:
            for _ in runs.follow(snapshot.id, after=snapshot.position):
                pass
        code = _exit_code(runs, snapshot.id)
    context.exit(code)


def _exit_code(runs: Runs, run_id: str) -> int:
    snapshot = runs.get_run(run_id)
    return EXIT_CODES.get(snapshot.status or "", 1) if snapshot else 1

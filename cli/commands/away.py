"""`runfold run` where RUNFOLD_URL names a server: it starts workflows itself, a command is driven here and reported."""

import asyncio
from collections.abc import Callable
from typing import Any

import click
import msgspec

from cli.commands.logs import print_output
from cli.commands.watch import EXIT_CODES
from cli.remote import RemoteRuns, open_remote, token_of
from cli.screen import next_command, talk
from cli.settings import Settings
from projections.run_list import RunFilter
from runfold.errors import NotFound
from runfold.events import RunQueued
from runfold.workflows import Asked

_EXIT_INTERRUPTED = 130


def start_there(settings: Settings, workflow: str, asked: Asked, *, detach: bool) -> int:
    """Let the server start a workflow that it knows, and follow it to its end; the exit code says how it ended."""
    body: dict[str, Any] = {"workflow": workflow, **msgspec.to_builtins(asked)}
    # A server has a cache of its own, which its workflows use or not.
    body = {name: value for name, value in body.items() if name != "cache" and value not in (None, "", {})}
    is_loop = not body.keys().isdisjoint(("prompt", "model", "max_turns", "completion"))
    with open_remote(settings) as runs:
        run = runs.launch("/api/runs/continuous" if is_loop else "/api/runs", body)
        if detach or run.driver == "reported":
            click.echo(run.id)
            next_command(f"runfold watch {run.id}")
            return 0
        talk(f"run {run.id} is {run.status} there")
        try:
            return _follow(runs, run.id)
        except KeyboardInterrupt:
            talk(f"run {run.id} goes on there; `runfold cancel {run.id}` ends it")
            return _EXIT_INTERRUPTED


def _follow(runs: RemoteRuns, run_id: str) -> int:
    try:
        print_output(runs, run_id, follow=True, tail=None)
    except NotFound:
        talk(f"run {run_id} wrote nothing")
    run = runs.get_run(run_id)
    return EXIT_CODES.get(run.status or "", 1) if run else 1


def drive_and_report(
    settings: Settings, order: RunQueued, *, quiet: bool, tty: bool, tell: Callable[[str], None] | None
) -> int:
    """Drive a command here and report it there; the exit code is the command's."""
    from runner.away import drive_away
    from runner.launch import launch_here
    from runner.turns.terminal import is_terminal

    with open_remote(settings) as runs:
        # Once it is open the run outlives an absence of its server; but one that never answers is a mistyped address.
        runs.list_runs(RunFilter(tenant=None, limit=1))
    launch = launch_here(order, None, shown=tell is None, tty=tty and is_terminal(1))
    url, token = settings.url, token_of(settings)
    return asyncio.run(drive_away(order, launch, url=url, token=token, data=settings.data, quiet=quiet, start=tell))

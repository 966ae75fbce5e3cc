"""What every reading command shares: its settings, where runs are read, how a run is typed, how JSON is printed."""

import sys
from contextlib import AbstractContextManager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from cli.runs import Runs
from cli.settings import Settings, load_settings
from projections.run_list import RunFilter
from runfold.errors import RunfoldError

if TYPE_CHECKING:
    from cli.remote import RemoteRuns

COMPLETED_RUNS = 50


def settings_of(context: click.Context, **flags: object) -> Settings:
    return load_settings({**(context.find_root().obj or {}), **flags})


def open_runs(settings: Settings) -> AbstractContextManager[Runs]:
    """The runs of the server that RUNFOLD_URL names, else those of the data folder."""
    if settings.url:
        from cli.remote import open_remote

        return open_remote(settings)
    from cli.folder import open_folder

    return open_folder(settings)


def open_remote_of(settings: Settings) -> "AbstractContextManager[RemoteRuns]":
    """The server that RUNFOLD_URL names."""
    from cli.remote import open_remote

    return open_remote(settings)


def remote_of(runs: Runs) -> "RemoteRuns | None":
    """The server they are of, None where they are of the data folder; nothing is loaded to say so."""
    remote = sys.modules.get("cli.remote")
    return cast("RemoteRuns", runs) if remote is not None and isinstance(runs, remote.RemoteRuns) else None


def print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value))


class RunId(click.ParamType[str]):
    """A run as typed; completes the ids of recent runs."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        try:
            # A person is in the midst of a line there: whatever there is to say would stand in it.
            with redirect_stderr(StringIO()), open_runs(settings_of(ctx)) as runs:
                items = runs.list_runs(RunFilter(tenant=None, limit=COMPLETED_RUNS)).items
        except (RunfoldError, OSError):
            return []
        return [CompletionItem(item.id, help=item.title) for item in items if item.id.startswith(incomplete)]


run_argument = click.argument("run_text", metavar="RUN", type=RunId())
json_option = click.option("--json", "as_json", is_flag=True, help="Print what the API would print.")

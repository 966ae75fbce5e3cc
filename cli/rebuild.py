"""`runfold rebuild`: fold every view anew from the log, beside the old ones, which serve until it is done."""

import click

from cli.folder import need_folder
from cli.reading import settings_of
from cli.screen import next_command, talk
from eventstore.reading import open_reader
from projections.views import VIEWS, rebuild


@click.command(name="rebuild")
@click.pass_context
def rebuild_views(context: click.Context) -> None:
    """Fold every view anew from the log."""
    settings = settings_of(context)
    need_folder(settings, "rebuild")
    open_reader(settings.data).close()  # Raises where there is no log.
    generation = rebuild(settings.data)
    talk(f"folded {', '.join(view.name for view in VIEWS)} anew, as generation {generation}")
    next_command("runfold ps")

"""`runfold worker`: drives queued runs of the log, and serves nothing."""

import asyncio

import click

from cli.data_folder import prepare_folder
from cli.logging import configure_logging
from cli.node import open_node, until_told_to_stop, work
from cli.reading import settings_of
from cli.screen import talk
from cli.server_lock import server_lock
from cli.settings import Settings
from eventstore.heap import long_lived
from runner.worker import SLOTS


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=SLOTS, help=f"Runs driven at once; {SLOTS} by default.")
@click.pass_context
def worker(context: click.Context, *, workers: int) -> None:
    """Drive queued runs without serving anything: for machines that share a replicated log."""
    settings = settings_of(context)
    configure_logging(settings.log_level)
    prepare_folder(settings.data)
    with server_lock(settings.data):
        asyncio.run(_work(settings, workers))


async def _work(settings: Settings, slots: int) -> None:
    stop = until_told_to_stop()
    async with open_node(settings) as node:
        talk(f"driving runs of {settings.data}, {slots} at once. Ctrl-C stops")
        with long_lived():
            await work(node, slots=slots, stop=stop)

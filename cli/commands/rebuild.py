"""`runfold rebuild`: fold the views anew from the log, beside the served ones, which serve until it is done."""

import os
import time
from collections.abc import Callable

import click

from cli.beside import end_with_input
from cli.data_folder import need_folder
from cli.reading import json_option, print_json, settings_of
from cli.screen import duration, is_talking, next_command, talk
from eventstore.log_file import open_reader
from projections.catalogue import VIEWS
from projections.engine.rebuilding import rebuild
from projections.engine.underway import told

SHOW_SECONDS = 0.1  # Often enough to look alive; drawing costs more than folding a page.
BAR_CHARACTERS = 24
NICENESS = 10  # Nobody waits for it; those who append and read come first.


@click.command(name="rebuild")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([view.name for view in VIEWS]),
    help="Fold this view alone and copy the others; repeatable.",
)
@click.option(
    "--workers", type=click.IntRange(1, 2), default=1, show_default=True, help="Processes that share the views."
)
@click.option("--anew", is_flag=True, help="Take nothing of one that was cut: it may hold what was redacted since.")
@click.option("--while-asked", "while_asked", is_flag=True, hidden=True, help="End when standard input does.")
@json_option
@click.pass_context
def rebuild_views(
    context: click.Context, *, only: tuple[str, ...], workers: int, anew: bool, while_asked: bool, as_json: bool
) -> None:
    """Fold every view anew from the log; one that was cut goes on where it was."""
    settings = settings_of(context)
    need_folder(settings, "rebuild")
    open_reader(settings.data).close()  # Raises where there is no log.
    if while_asked:
        end_with_input()
    os.nice(NICENESS)
    started = time.monotonic()
    try:
        draw = _progress(started) if is_talking() else None
        checking = _say_checking if is_talking() else None
        with told(settings.data) as tell:

            def progress(done: int, total: int) -> None:
                tell(done, total)
                if draw is not None:
                    draw(done, total)

            rebuilt = rebuild(
                settings.data, only=only, anew=anew, workers=workers, on_progress=progress, on_check=checking
            )
    finally:
        if is_talking():
            click.echo("\r\x1b[K", nl=False, err=True)
    seconds = time.monotonic() - started
    if as_json:
        print_json(rebuilt)
        return
    gone_on = f", gone on from event {rebuilt.folded_from:,}" if rebuilt.folded_from else ""
    rate = (rebuilt.position - rebuilt.folded_from) / max(seconds, 0.001)
    talk(
        f"folded {', '.join(rebuilt.folded)} anew, as generation {rebuilt.generation}: up to event"
        f" {rebuilt.position:,} in {duration(seconds * 1000)} ({rate:,.0f} events/s{gone_on})"
    )
    for name in rebuilt.parked:
        talk(f"note: view `{name}` is parked at an event it cannot take; `runfold verify` names it")
    next_command("runfold verify" if rebuilt.parked else "runfold ps")


def _say_checking() -> None:
    click.echo("\r\x1b[Kfolded; checking that the log is what was appended …", nl=False, err=True)


def _progress(started: float) -> Callable[[int, int], None]:
    """Draws a bar with the rate and the time that is left, by what this process has folded itself."""
    first: int | None = None
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal first, shown
        now = time.monotonic()
        if first is None:
            first = done
        if now - shown < SHOW_SECONDS or not total:
            return
        shown = now
        filled = min(done * BAR_CHARACTERS // total, BAR_CHARACTERS)
        rate = (done - first) / max(now - started, 0.001)
        left = f", about {duration((total - done) / rate * 1000)} left" if rate else ""
        bar = "█" * filled + "░" * (BAR_CHARACTERS - filled)
        click.echo(
            f"\r\x1b[K[{bar}] {done * 100 // total} %  {done:,} of {total:,}  {rate:,.0f} events/s{left}",
            nl=False,
            err=True,
        )

    return show

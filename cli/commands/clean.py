"""`runfold export` and `runfold clean`: runs in one file that proves itself, and what the log need not keep."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.data_folder import need_folder
from cli.folder import open_folder
from cli.reading import json_option, print_json, run_argument, settings_of
from cli.runs import find_run
from cli.screen import next_command, plain, table, talk
from cli.settings import Settings
from cli.times import DAY_US, age_us
from eventstore.mirrored import mirrored_log

if TYPE_CHECKING:
    from eventstore.keeping.cleaning import Candidate, Cleaned


class Age(click.ParamType[int]):
    """`30d`, `12h`, `90m`, `5s` in microseconds."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        age = age_us(str(value))
        if age is None:
            self.fail(f"`{value}` is no age: for example 30d, 12h or 90m", param, ctx)
        return age


@click.command()
@run_argument
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_context
def export(context: click.Context, *, run_text: str, path: Path, as_json: bool) -> None:
    """Write a run with its output and blobs to one compressed FILE."""
    from eventstore.keeping.archive import write_archive

    settings = settings_of(context)
    need_folder(settings, "export")
    with open_folder(settings) as runs:
        run_id = find_run(runs, run_text).id
    manifest = write_archive(settings.data, path, [run_id], now_us=time.time_ns() // 1000)
    if as_json:
        print_json(manifest)
    else:
        click.echo(f"{path}  {manifest.runs[0].version} events, {path.stat().st_size:,} bytes")
    next_command(f"runfold status {path}")


@click.command()
@click.option("--older-than", "age_us", type=Age(), default="30d", show_default=True, help="Of the run's last event.")
@click.option("--trim", "whole", is_flag=True, help="Take whole runs; their summaries stay.")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@json_option
@click.pass_context
def clean(context: click.Context, *, age_us: int, whole: bool, dry_run: bool, as_json: bool) -> None:
    """Archive old final runs, then empty their output and activity."""
    from cli.actor import local_actor
    from eventstore.keeping import cleaning
    from eventstore.state_file import kept_going, mend_states
    from projections.engine.rebuilding import rebuild

    settings = settings_of(context)
    need_folder(settings, "clean")
    now_us = time.time_ns() // 1000
    with open_folder(settings):
        found = cleaning.candidates(settings.data, before_us=now_us - age_us, whole=whole)
    what = "the whole run" if whole else "activity and output"
    if dry_run or not found:
        if as_json:
            print_json({"runs": found})
            return
        rows = [
            (item.run_id, f"{(now_us - item.last_at_us) // DAY_US} d", f"{item.size_bytes:,}", plain(what))
            for item in found
        ]
        table(("RUN", "FINAL FOR", "BYTES", "WHAT GOES"), rows)
        talk(f"{len(found)} runs, {sum(item.size_bytes for item in found):,} bytes; nothing was changed")
        return
    if mirrored_log(settings.data) is None:
        done = cleaning.clean(settings.data, found, whole=whole, actor=local_actor())
    else:
        done = asyncio.run(_clean_shared(settings, found, whole=whole))
    with kept_going():
        mend_states(settings.data)
    if done.runs:
        # A row that is taken out leaves its text in the file's free pages, so the views move to a new one.
        rebuild(settings.data, anew=True)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{len(done.runs)} runs, {done.size_bytes:,} bytes archived in {settings.data / done.archive}")
    for run_id in done.skipped:
        talk(f"note: {run_id} changed meanwhile and was left as it is")
    if not done.is_gone:
        talk("note: somebody reads the log, so its journal still holds what went, until that reader goes on")
    next_command(f"runfold import {settings.data / done.archive}  (brings it back)")


async def _clean_shared(settings: Settings, found: "list[Candidate]", *, whole: bool) -> "Cleaned":
    """In the log that several machines share, and thereby on all of them."""
    from cli.actor import local_actor
    from eventstore.jetstream.log import JetStreamLog
    from eventstore.opening import open_log

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        assert isinstance(log, JetStreamLog)  # noqa: S101
        return await log.clean(found, whole=whole, actor=local_actor())
    finally:
        await log.close()

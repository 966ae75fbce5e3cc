"""`runfold redact RUN`: take a secret out of what is stored, for good."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.data_folder import need_folder
from cli.folder import open_folder
from cli.reading import json_option, print_json, run_argument, settings_of
from cli.runs import find_run
from cli.screen import next_command, talk
from cli.settings import Settings
from eventstore.mirrored import mirrored_log
from runfold.envelope import time_text
from runfold.errors import BadRequest, RunfoldError

if TYPE_CHECKING:
    from eventstore.keeping.redacting import Redacted


@click.command()
@run_argument
@click.option("--text", "texts", multiple=True, help="This text, wherever the run holds it; `-` reads it from stdin.")
@click.option("--position", "positions", multiple=True, type=int, help="All that the event there says; repeatable.")
@click.option("--pattern", "by_form", is_flag=True, help="Whatever has the form of a key, a token or a password.")
@click.option("--reason", default="", help="Why, for the record; not the secret.")
@json_option
@click.pass_context
def redact(
    context: click.Context,
    *,
    run_text: str,
    texts: tuple[str, ...],
    positions: tuple[int, ...],
    by_form: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Take a secret out of a run's events, output and blobs; the proofs still hold.

    Copies that were made before keep what they hold: backups, exports, and the archives of `runfold clean`.
    """
    from cli.actor import local_actor
    from eventstore.keeping.redacting import redact as redact_run
    from eventstore.state_file import kept_going, mend_states
    from projections.engine.rebuilding import rebuild

    if not (texts or positions or by_form):
        raise BadRequest("nothing was named to redact", hint="give --text, --position or --pattern")
    settings = settings_of(context)
    need_folder(settings, "redact")
    given = [sys.stdin.read().rstrip("\r\n") if text == "-" else text for text in texts]
    with open_folder(settings) as runs:
        run_id = find_run(runs, run_text).id
    is_shared = mirrored_log(settings.data) is not None
    if is_shared:
        done = asyncio.run(_redact_shared(settings, run_id, given, positions, by_form=by_form, reason=reason))
    else:
        done = redact_run(
            settings.data, run_id, texts=given, positions=positions, by_form=by_form, reason=reason, actor=local_actor()
        )
    with kept_going():
        mend_states(settings.data)
    if done.events or done.files:
        # A row that was replaced leaves its text in the file's free pages, so the views move to a new one.
        rebuild(settings.data, anew=True)
    if as_json:
        print_json(done)
    else:
        click.echo(f"redacted {done.events} events, {done.files} files and {done.blobs} blobs of {run_id}")
    if not (done.events or done.files or done.blobs):
        talk(f"note: `{run_id}` holds nothing of it; nothing was changed")
    for archive, made_at in _archives_with(settings.data, run_id):
        talk(f"note: `{archive}` holds the run as it was at {made_at}, maybe with the secret; delete it if so")
    for sha256 in done.still_named:
        talk(f"note: blob {sha256} is named by another run too, and stays until it is redacted there")
    if is_shared:
        talk("note: the log's servers keep what it was in their journals for some minutes; then it is gone there too")
    elif not done.is_gone:
        talk("note: the log's file still holds the text: another run says it too, or somebody reads an old page of it")
        talk("next: redact it there, or stop the reader, then redact again")
        context.exit(1)
    next_command("runfold verify")


def _archives_with(data: Path, run_id: str) -> Iterator[tuple[Path, str]]:
    """The archives of the folder that a clean or a trim has put this run into, and when."""
    from eventstore.keeping.archive import open_archive
    from eventstore.keeping.cleaning import FOLDER

    for path in sorted((data / FOLDER).glob("*.tar.zst")):
        try:
            with open_archive(path) as (manifest, _members):
                is_there = any(run.run_id == run_id for run in manifest.runs)
        except (RunfoldError, OSError) as error:
            talk(f"note: {error}")
            continue
        if is_there:
            yield path, time_text(manifest.made_at_us)[:19] + "Z"


async def _redact_shared(
    settings: Settings, run_id: str, texts: list[str], positions: tuple[int, ...], *, by_form: bool, reason: str
) -> "Redacted":
    """In the log that several machines share, and thereby on all of them."""
    from cli.actor import local_actor
    from eventstore.jetstream.log import JetStreamLog
    from eventstore.opening import open_log

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        assert isinstance(log, JetStreamLog)  # noqa: S101
        return await log.take_out(
            run_id, texts=texts, positions=positions, by_form=by_form, reason=reason, actor=local_actor()
        )
    finally:
        await log.close()

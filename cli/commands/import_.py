"""`runfold import FILE…`: recorded sessions of other programs as finished runs; a file twice adds nothing."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cli.data_folder import need_folder
from cli.reading import json_option, settings_of
from cli.screen import next_command, plain, talk
from cli.settings import Settings
from runfold.errors import RunfoldError

if TYPE_CHECKING:
    from eventstore.ledger import Ledger
    from runner.imports.importing import Imported
    from runner.imports.recognise import Telling


class _Refused(msgspec.Struct, frozen=True):
    file: str
    code: str
    message: str
    hint: str


@click.command("import")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--again", is_flag=True, help="Import what has changed since as a run of its own.")
@json_option
@click.pass_context
def import_(context: click.Context, *, files: tuple[Path, ...], again: bool, as_json: bool) -> None:
    """Import recorded sessions as finished runs.

    The format is seen by what is in the file: sessions of Codex, Claude Code, Gemini CLI, Qwen Code, Copilot CLI, Kimi
    and Droid; what `codex exec --json`, `claude --output-format stream-json`, `gemini --output-format stream-json` and
    `opencode run --format json` print; SWE-agent and mini-swe-agent trajectories; OpenHands events; GitHub Actions
    payloads; dbt run_results.json; OpenLineage events; Temporal histories; archives of `runfold export` and `clean`.
    """
    imported, refused = asyncio.run(_import(context, files, again=again, quiet=as_json))
    if as_json:
        click.echo(msgspec.json.encode({"imported": imported, "refused": refused}))
    elif len(imported) == 1:
        next_command(f"runfold status {imported[0].run_id}")
    elif imported:
        next_command("runfold ps --all")
    context.exit(1 if refused else 0)


async def _import(
    context: click.Context, files: tuple[Path, ...], *, again: bool, quiet: bool
) -> tuple[list["Imported"], list[_Refused]]:
    from cli.actor import local_actor
    from runner.imports.importing import import_file

    imported: list[Imported] = []
    refused: list[_Refused] = []
    settings = settings_of(context)
    need_folder(settings, "import")
    ledger: Ledger | None = None
    async with AsyncExitStack() as opened:
        for number, path in enumerate(files, 1):
            progress = _Progress(f"{path.name} ({number} of {len(files)})")
            try:
                told = _read(path, progress)
            except RunfoldError as error:
                progress.clear()
                refused.append(_refuse(path, error))
                continue
            if ledger is None:
                # Nothing is made in a folder for what does not come into it.
                ledger = await opened.enter_async_context(_open_ledger(settings))
            try:
                if told is None:
                    found = await asyncio.to_thread(_restore, path, settings.data, local_actor())
                else:
                    found = await import_file(
                        ledger,
                        told,
                        tenant="default",
                        actor=local_actor(),
                        data=settings.data,
                        again=again,
                        progress=progress.show,
                    )
            except RunfoldError as error:
                progress.clear()
                refused.append(_refuse(path, error))
                continue
            progress.clear()
            imported += found
            if not quiet:
                for item in found:
                    click.echo(_line(item))
    return imported, refused


def _read(path: Path, progress: "_Progress") -> "Telling | None":
    """What a file tells; None of an archive. Raises RunfoldError where the file is at fault."""
    from eventstore.keeping.archive import is_archive, open_archive
    from runner.imports.importing import read_file

    if not is_archive(path):
        return read_file(path, progress=progress.show)
    with open_archive(path):
        return None


def _refuse(path: Path, error: RunfoldError) -> _Refused:
    talk(f"error: {error.message}\n\nhint: {error.hint}\n" if error.hint else f"error: {error.message}")
    return _Refused(str(path), error.code, error.message, error.hint)


@asynccontextmanager
async def _open_ledger(settings: Settings) -> AsyncGenerator["Ledger", None]:
    from cli.wishing import take_in
    from eventstore.ledger import Ledger
    from eventstore.opening import open_log
    from runfold.redact import secrets_of

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        ledger = Ledger(log, data=settings.data, secrets=secrets_of(os.environ))
        await take_in(ledger, settings.data)
        yield ledger
    finally:
        await log.close()


def _restore(path: Path, data: Path, actor: str) -> list["Imported"]:
    from eventstore.keeping.restoring import restore
    from eventstore.state_file import kept_going, mend_states
    from runner.imports.importing import Imported

    with kept_going():
        mend_states(data)  # A folder that was never looked at keeps files of what comes from now on.
    brought = restore(path, data, actor=actor)
    with kept_going():
        mend_states(data)
    return [
        Imported(
            file=str(path),
            format="runfold archive",
            run_id=restored.run_id,
            title=restored.title,
            status=restored.status,
            reason_code="",
            events_new=restored.events_new + restored.events_filled,
            events_known=0,
            records_unknown=0,
        )
        for restored in brought
    ]


def _line(item: "Imported") -> str:
    head = f"{item.run_id}  {item.status:<9}  {item.format:<16}  {plain(item.title, 60)}"
    if item.driven:
        return f"{head}  (driven here: nothing new; --again imports it as a run of its own)"
    if item.events_new == 0:
        more = ", and the file has changed since (--again)" if item.changed else ""
        return f"{head}  (known: nothing new{more})"
    unknown = f", {item.records_unknown} records kept as telemetry" if item.records_unknown else ""
    return f"{head}  ({item.events_new} events{unknown})"


class _Progress:
    """One line on a terminal that says how far the import is; nothing anywhere else."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = False

    def show(self, events: int) -> None:
        if sys.stderr.isatty():
            self._shown = True
            what = f"{events} events" if events else "reading"
            click.echo(f"\r\x1b[K{self._name}: {what}", err=True, nl=False)

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)

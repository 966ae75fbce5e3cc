"""`runfold backup` and `runfold restore`: a proved copy of a data folder, taken while it is written to."""

from pathlib import Path

import click

from cli.data_folder import need_folder
from cli.reading import json_option, print_json, settings_of
from cli.screen import is_talking, next_command
from eventstore.keeping import backup as backups
from eventstore.keeping import copying


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
@click.pass_context
def backup(context: click.Context, *, folder: Path, as_json: bool) -> None:
    """Copy log, blobs and outputs to a new FOLDER, while runs go on."""

    def progress(done: int, total: int) -> None:
        if is_talking() and total:
            click.echo(f"\r\x1b[K{done * 100 // total} %", nl=False, err=True)

    settings = settings_of(context)
    need_folder(settings, "backup")
    manifest = backups.backup(settings.data, folder, on_progress=progress)
    if is_talking():
        click.echo("\r\x1b[K", nl=False, err=True)
    _print(manifest, as_json)
    next_command(f"runfold --data EMPTY_FOLDER restore {folder}  (proves it first)")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--check", "only_check", is_flag=True, help="Prove the backup, and put nothing anywhere.")
@json_option
@click.pass_context
def restore(context: click.Context, *, folder: Path, only_check: bool, as_json: bool) -> None:
    """Prove the backup in FOLDER and put it into a data folder without a log."""
    if only_check:
        manifest, faults = backups.check_backup(folder)
        for fault in faults:
            click.echo(fault.message, err=True)
        _print(manifest, as_json)
        context.exit(1 if faults else 0)
    settings = settings_of(context)
    need_folder(settings, "restore")
    _print(backups.restore(folder, settings.data), as_json)
    next_command("runfold ps")


def _print(manifest: copying.Manifest, as_json: bool) -> None:
    if as_json:
        print_json(manifest)
        return
    click.echo(
        f"{manifest.events:,} events of {manifest.runs:,} runs up to position {manifest.head},"
        f" {manifest.files:,} files, {manifest.size_bytes / 1e6:,.1f} MB"
    )

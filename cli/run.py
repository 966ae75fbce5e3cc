"""`runfold run -- COMMAND…`: run a command here, recorded, and be as transparent as if it ran alone."""

import asyncio
import getpass
import os
from pathlib import Path

import click

from cli.main import Usage
from cli.reading import settings_of
from runfold.redact import secrets_of


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--title", help="The run's title; the command line where none is given.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; repeatable.")
@click.option("--quiet", is_flag=True, help="Say nothing beside the command's own output.")
@click.option("--no-tty", is_flag=True, help="Give the command pipes, also on a terminal.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    context: click.Context,
    *,
    title: str | None,
    labels: tuple[str, ...],
    quiet: bool,
    no_tty: bool,
    command: tuple[str, ...],
) -> None:
    """Run a command here and record it; the exit code is the command's."""
    if not command:
        raise Usage("there is no command to run", hint="`runfold run -- COMMAND…`")
    labelled = dict(_label(label) for label in labels)
    data = settings_of(context).data
    context.exit(asyncio.run(_run(data, command, title=title, labels=labelled, quiet=quiet, tty=not no_tty)))


async def _run(
    data: Path, command: tuple[str, ...], *, title: str | None, labels: dict[str, str], quiet: bool, tty: bool
) -> int:
    from eventstore.ledger import Ledger
    from eventstore.sqlite import SqliteLog
    from runner.here import run_here

    log = await SqliteLog.open(data)
    try:
        return await run_here(
            Ledger(log, data=data, secrets=secrets_of(os.environ)),
            log,
            data=data,
            argv=command,
            title=title,
            labels=labels,
            tenant="default",
            actor=local_actor(),
            quiet=quiet,
            tty=tty,
        )
    finally:
        await log.close()


def local_actor() -> str:
    """The person at this terminal, as the log names actors."""
    try:
        return f"user:{getpass.getuser()}"
    except (OSError, KeyError):
        return "user:unknown"


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Usage(f"label `{text}` has no value", hint="write it as `--label key=value`")
    return key, value

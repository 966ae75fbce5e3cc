"""`runfold log`: move a folder's log onto a cluster or back, and make a lost one again from its second copy."""

import asyncio
import os
from pathlib import Path

import click

from cli.data_folder import prepare_folder
from cli.reading import json_option, print_json
from cli.screen import is_talking, next_command, talk
from cli.server_lock import server_lock
from eventstore.leases import Leases
from runfold.errors import InvalidSetting, NotAllowed
from runner import machine

FOLDER = "sqlite:"


@click.group()
def log() -> None:
    """Move the log between a folder and a cluster, or restore it from its second copy."""


@log.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy(source: str, target: str) -> None:
    """Copy a log with its positions, ids and hashes: sqlite:FOLDER to nats://HOSTS/NAME, or back.

    The folder that was copied becomes a mirror of the cluster's log; runs must rest meanwhile.
    """
    from eventstore.jetstream.address import parse_address
    from eventstore.jetstream.moving import move_to_cluster, move_to_folder

    if source.startswith(FOLDER) and not target.startswith(FOLDER):
        data = Path(source.removeprefix(FOLDER))
        address = parse_address(target)
        with server_lock(data):
            _refuse_drivers(data)
            count = asyncio.run(move_to_cluster(data, address, tell=_show))
        talk(f"{count} events are on the cluster; `{data}` mirrors them from now on")
        next_command(f"runfold --data {data} verify")
    elif target.startswith(FOLDER) and not source.startswith(FOLDER):
        data = Path(target.removeprefix(FOLDER))
        address = parse_address(source)
        prepare_folder(data)
        if (data / "log.db").exists():
            raise NotAllowed(f"`{data}` holds a log already", hint="name an empty folder")
        last = asyncio.run(move_to_folder(address, data))
        talk(f"the log up to position {last} is in `{data}`, a log of its own from now on")
        next_command(f"runfold --data {data} verify")
    else:
        raise InvalidSetting(
            "one side is a folder and the other a cluster",
            hint="runfold log copy sqlite:FOLDER nats://host,host,host/name, or the other way round",
        )


@log.command()
@click.argument("store", metavar="STORE")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--log-id", default="", help="Which log, where the store has copies of several.")
@json_option
def restore(store: str, folder: Path, log_id: str, *, as_json: bool) -> None:
    """Make a lost log again from the copy in STORE (s3://, gs://, az://, file://), in a FOLDER that has none.

    It is proved before it has its name; the views are folded anew. `runfold log copy` then brings it onto a cluster.
    """
    from eventstore.keeping.log_restoring import restore_log
    from eventstore.keeping.second_copy import copied_log
    from eventstore.objects.object_store import open_store

    opened = open_store(store)
    copy = copied_log(opened, log_id)
    prepare_folder(folder)
    with server_lock(folder):
        restored = restore_log(copy, opened, folder, on_segment=lambda made: _show_position(made.upto))
    if is_talking():
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        print_json(restored)
    else:
        click.echo(
            f"{restored.events:,} events up to position {restored.position} from {restored.segments:,} segments,"
            f" {restored.files:,} files"
        )
    if restored.missing:
        talk(
            f"note: the store does not have {len(restored.missing)} blobs that events name; `runfold verify` names them"
        )
    next_command(f"runfold --data {folder} verify")


def _show_position(position: int) -> None:
    if is_talking():
        click.echo(f"\r\x1b[Krestored up to position {position:,}", nl=False, err=True)


def _show(done: int, total: int) -> None:
    if is_talking() and total:
        click.echo(f"\r\x1b[Kcopied: {done:,} of {total:,} ({done * 100 // total} %)", nl=done == total, err=True)


def _refuse_drivers(data: Path) -> None:
    """Raises NotAllowed where a process on this machine drives a run of the folder."""
    leases = Leases.open_reader(data)
    if leases is None:
        return
    try:
        for lease in leases.of_host(machine.host()):
            if machine.is_process_alive(lease.pid, lease.pid_started_at) and lease.pid != os.getpid():
                raise NotAllowed(
                    f"run `{lease.run_id}` is driven by process {lease.pid}",
                    hint=f"`runfold pause {lease.run_id}` or `runfold wait {lease.run_id}` first",
                )
    finally:
        leases.close()

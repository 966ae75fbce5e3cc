"""`runfold log copy`: move a folder's log onto a cluster, or a cluster's into a folder."""

import asyncio
import os
from pathlib import Path

import click

from cli.folder import prepare_folder
from cli.screen import is_talking, next_command, talk
from cli.server_lock import server_lock
from eventstore.leases import Leases
from runfold.errors import InvalidSetting, NotAllowed
from runner import machine

FOLDER = "sqlite:"


@click.group()
def log() -> None:
    """Move the log between a folder and a cluster."""


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

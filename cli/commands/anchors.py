"""`runfold anchors`: what the log was at its anchors, to be kept where nobody who can write the log can write."""

import sys
from pathlib import Path

import click
import msgspec

from cli.data_folder import need_folder
from cli.reading import settings_of
from cli.screen import talk
from eventstore.anchoring import Anchor
from eventstore.log_file import open_reader
from eventstore.proof.anchors import log_anchors
from eventstore.proof.signing import Signer


@click.command()
@click.option("--all", "everything", is_flag=True, help="Every anchor; the last one holds for them all.")
@click.option("--sign", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="An Ed25519 private key.")
@click.pass_context
def anchors(context: click.Context, *, everything: bool, key_file: Path | None) -> None:
    """Print the log's anchors, one JSON object a line, signed where a key is given."""
    settings = settings_of(context)
    need_folder(settings, "anchors")
    if key_file is None and settings.anchor_key:
        key_file = Path(settings.anchor_key)
    signer = None if key_file is None else Signer(key_file)
    connection = open_reader(settings.data)
    try:
        log_id: str = connection.execute("SELECT log_id FROM head").fetchone()[0]
        count = 0
        for anchor in log_anchors(connection, last_only=not everything):
            signature = "" if signer is None else signer.sign(anchor, log_id)
            kept = msgspec.structs.replace(anchor, log_id=log_id, signature=signature)
            sys.stdout.buffer.write(msgspec.json.encode(_told(kept)) + b"\n")
            count += 1
    finally:
        connection.close()
    if not count:
        talk("the log has no anchor yet: one is made every 1,000 events, and whenever a process closes the log")
    talk("next: keep it elsewhere; `runfold verify --anchor FILE` proves the log against it")


def _told(anchor: Anchor) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(anchor).items() if value != ""}

"""The log of a data folder: its own, or the replicated one that it mirrors."""

from pathlib import Path

from eventstore.mirrored import mirrored_log
from eventstore.sqlite import SqliteLog
from runfold.errors import InvalidSetting


async def open_log(data: Path, address: str = "", *, blobs: str = "") -> SqliteLog:
    """Open the log that `address` names, else the one that the folder has or mirrors; `blobs`: the store it shares.

    Raises InvalidSetting, BadRequest, Unavailable.
    """
    mirrored = mirrored_log(data)
    blobs = blobs or (mirrored.blobs if mirrored is not None else "")
    address = address or (mirrored.address if mirrored is not None else "")
    if not address:
        return await SqliteLog.open(data)
    try:
        # Only who has a replicated log needs the client for it.
        from eventstore.jetstream.address import parse_address
        from eventstore.jetstream.log import JetStreamLog
        from eventstore.objects.object_store import open_store

        if blobs:
            open_store(blobs)
    except ImportError as error:
        raise InvalidSetting(
            "a replicated log needs the package nats-py", hint="pip install 'runfold[nats]'"
        ) from error
    return await JetStreamLog.connect(parse_address(address), data, blobs=blobs)

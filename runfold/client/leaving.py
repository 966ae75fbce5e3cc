"""What earlier programs kept for a named server that did not answer them reaches it with the same ids, once it does.

A file goes only when its server has answered all of it, so one that breaks off is delivered again from its start.
"""

import fcntl
from contextlib import suppress
from pathlib import Path

import msgspec

from runfold.client.place import SPOOL_FOLDER
from runfold.client.requests import Told, Unreachable
from runfold.client.server import ServerWay
from runfold.client.spool import read_head, read_requests, remove_spool
from runfold.client.ways import is_left_open

FILES_MAX = 1_000  # A folder with more is delivered over several runs.


def deliver_left(data: Path, server: ServerWay) -> None:
    """Give the server every file that was left for it, and close the way to it; what it cannot take now stays."""
    try:
        for path in sorted((data / SPOOL_FOLDER).glob("*.jsonl"))[:FILES_MAX]:
            # What cannot be read stays where it is, for a person to look at.
            with suppress(OSError, msgspec.MsgspecError):
                _deliver(path, server)
    except Unreachable:
        return
    finally:
        server.close()


def _deliver(path: Path, server: ServerWay) -> None:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # Its program runs, and delivers it itself.
        if read_head(path).url != server.url:
            return
        run = path.stem
        for request in read_requests(path):
            try:
                answer = server.send(msgspec.structs.replace(request, run=run))
            except FileNotFoundError:
                continue  # The copy of an artifact was deleted; that must not hold back the rest.
            if is_left_open(answer):
                return
            if request.do == "open" and answer.status < 300:
                run = msgspec.json.decode(answer.body, type=Told).id or run
        remove_spool(path)

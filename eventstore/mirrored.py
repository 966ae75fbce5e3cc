"""Whether a data folder holds a log of its own or mirrors a replicated one, as a small file in it says."""

from pathlib import Path

import msgspec

from eventstore.durable import write_durably
from runfold.errors import BadRequest

MIRROR_FILE = "mirror.json"


class Mirrored(msgspec.Struct, frozen=True, kw_only=True):
    """`address` without a password; `log_id` of the replicated log; `blobs`: the url of the store that all share."""

    address: str
    log_id: str
    blobs: str = ""


def mirrored_log(data: Path) -> Mirrored | None:
    """The replicated log that a folder mirrors; None where it has a log of its own. Raises BadRequest."""
    path = data / MIRROR_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mirrored)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise BadRequest(
            f"`{path}` cannot be read: {error}",
            hint="move the folder away and start with --log in an empty one; the replicated log has everything",
        ) from error


def note_mirrored(data: Path, mirrored: Mirrored) -> None:
    """Mark a folder as a mirror before anything is in it."""
    new = data / f"{MIRROR_FILE}.new"
    write_durably(new, msgspec.json.encode(mirrored))
    new.replace(data / MIRROR_FILE)


def refuse_mirror(data: Path) -> None:
    """Raises BadRequest where a folder is a mirror: what is written to it alone is in no log."""
    mirrored = mirrored_log(data)
    if mirrored is not None:
        raise BadRequest(
            f"`{data}` mirrors the replicated log {mirrored.address}, and only that log is written",
            hint="choose another folder with --data for a log of its own",
        )


def end_mirror(data: Path) -> None:
    """The folder's log is its own from now on: what was mirrored, and what is written here."""
    (data / MIRROR_FILE).unlink(missing_ok=True)

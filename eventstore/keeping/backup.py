"""A copy of a data folder, made while it is written to, and put back only where it is proved and nothing is lost."""

import hashlib
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from eventstore.anchoring import ANCHORS_FILE
from eventstore.bringing_forward import OLD_VERSION, is_old
from eventstore.durable import make_private, sync
from eventstore.file_systems import refuse_network
from eventstore.keeping.copying import FORMAT, Manifest, copy_beside, is_rewritten
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.proof.anchors import anchors_beside
from eventstore.proof.attachments import Attachments
from eventstore.proof.faults import Fault
from eventstore.proof.verifying import Proof
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import bring_log_forward
from runfold.errors import BadRequest, Contended, NotFound, Refused

MANIFEST_FILE = "manifest.json"
FOLDERS = ("blobs", "runs")  # The views are made anew, and the token is a secret of its machine.
READ_BYTES = 1024 * 1024
TRIES = 5


def backup(data: Path, folder: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Copy the log as it is at one moment, then what its events name.

    The log comes first: what an event names was stored before it, so nothing can be missing in the copy. Raises
    NotFound, BadRequest, Unavailable, OSError.
    """
    with closing(open_reader(data)) as source:
        if (folder / MANIFEST_FILE).exists() or (folder / LOG_FILE).exists():
            raise BadRequest(f"`{folder}` holds a backup already", hint="name a new folder for each backup")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / LOG_FILE
        for _ in range(TRIES):
            _remove(path)
            make_private(path)
            trimmed_to = source.execute("SELECT trimmed_to FROM head").fetchone()[0]
            manifest = copy_beside(data / LOG_FILE, path, on_progress)
            # Asked again here: it may have ended long before this process, which was stopped, hears of it.
            if manifest is not None and not is_rewritten(source, "main", manifest.head, trimmed_to):
                break
        else:
            _remove(path)
            raise Contended(
                "the log was redacted or trimmed again and again while it was copied",
                hint="back it up when that is done",
            )
        sync(path)
    # Anchors of events that came after the copy say nothing of it.
    anchors = [anchor for anchor in anchors_beside(data)[0] if anchor.position <= manifest.head]
    (folder / ANCHORS_FILE).write_bytes(b"".join(msgspec.json.encode(anchor) + b"\n" for anchor in anchors))
    sync(folder / ANCHORS_FILE)
    files = [_copy(source_file, folder / source_file.relative_to(data)) for source_file in _attachments(data)]
    manifest = msgspec.structs.replace(
        manifest, log_sha256=_sha256(path), files=len(files), size_bytes=path.stat().st_size + sum(files)
    )
    # The manifest comes last: a folder without one is no backup.
    temporary = folder / f"{MANIFEST_FILE}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    sync(temporary)
    temporary.replace(folder / MANIFEST_FILE)
    sync(folder)
    return manifest


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def check_backup(folder: Path) -> tuple[Manifest, list[Fault]]:
    """What a backup says of itself, and everything in it that does not hold. Raises NotFound, BadRequest."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise NotFound(
            f"`{folder}` holds no complete backup", hint="name a folder that `runfold backup` has finished"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"`{folder / MANIFEST_FILE}` is damaged: {error}", hint="take another backup") from error
    if manifest.format > FORMAT:
        raise BadRequest(f"the backup in `{folder}` is of a newer runfold", hint="upgrade runfold")
    faults: list[Fault] = []
    if _sha256(folder / LOG_FILE) != manifest.log_sha256:
        faults.append(Fault(kind="file", message=f"`{LOG_FILE}` of the backup is not the one that was written"))
    with _opened(folder) as log:
        proof = Proof(log)
        beside, unreadable = anchors_beside(folder)
        faults += [*unreadable, *proof.faults(anchors=beside), *Attachments(log, folder).faults(upto=proof.head)]
    return manifest, faults


@contextmanager
def _opened(folder: Path) -> Generator[sqlite3.Connection]:
    """The log of a backup, to read; one of an older runfold is copied and brought forward: a backup stays as it is."""
    with ExitStack() as stack:
        if _is_older(folder):
            copy = Path(stack.enter_context(TemporaryDirectory(prefix="runfold-")))
            shutil.copyfile(folder / LOG_FILE, copy / LOG_FILE)
            bring_log_forward(copy)
            folder = copy
        yield stack.enter_context(closing(open_reader(folder)))


def _is_older(folder: Path) -> bool:
    with closing(open_reader(folder, oldest=OLD_VERSION)) as log:
        return is_old(log)


def restore(folder: Path, data: Path) -> Manifest:
    """Put a backup where no log is. Raises NotFound, BadRequest, Refused where it does not hold, OSError,
    InvalidSetting for a network file system.
    """
    refuse_network(data)
    if (data / LOG_FILE).exists():
        raise BadRequest(
            f"`{data}` holds a log already",
            hint="name another folder with --data, or move the old one away; nothing was changed",
        )
    manifest, faults = check_backup(folder)
    if faults:
        raise Refused(
            f"the backup in `{folder}` does not hold: {faults[0].message} ({len(faults)} faults)",
            hint="restore an older one; nothing was changed",
        )
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (*_attachments(folder), folder / ANCHORS_FILE):
        _copy(path, data / path.relative_to(folder))
    # The log comes last and gets its name when it is whole: a restore that was cut off can be done again.
    temporary = data / f"{LOG_FILE}.new"
    make_private(temporary)
    shutil.copyfile(folder / LOG_FILE, temporary)
    sync(temporary)
    temporary.replace(data / LOG_FILE)
    sync(data)
    if _is_older(data):
        bring_log_forward(data)
    return manifest


def _attachments(folder: Path) -> Iterator[Path]:
    for name in FOLDERS:
        for path in sorted((folder / name).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield path


def _copy(source: Path, target: Path) -> int:
    """Copy a file to where it is durable under its name; the bytes copied."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f".new-{target.name}")
    shutil.copyfile(source, temporary)
    sync(temporary)
    temporary.replace(target)
    sync(target.parent)
    return target.stat().st_size


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

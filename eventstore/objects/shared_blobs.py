"""Blobs that several machines share: an object store beside the folder's own, which then holds copies.

A blob is in the store before anybody hears its name, is created once and never changed, and is checked when it is read.
"""

from hashlib import sha256 as new_sha256
from pathlib import Path

from eventstore.mirrored import mirrored_log
from eventstore.objects.object_store import ObjectStore, open_store
from runfold.errors import Unavailable


def share(data: Path, sha256: str, path: Path) -> None:
    """Give a folder's blob to all machines, where its log is shared. Raises Unavailable."""
    store = store_of(data)
    if store is not None:
        store.create(blob_key(sha256), path)


def fetch(data: Path, sha256: str, path: Path) -> bool:
    """Bring a blob that another machine has shared into the folder; False where there is none. Raises Unavailable."""
    store = store_of(data)
    return store is not None and fetch_from(store, sha256, path)


def fetch_from(store: ObjectStore, sha256: str, path: Path) -> bool:
    """The same, from a store that was named."""
    chunks = store.stream(blob_key(sha256))
    if chunks is None:
        return False
    new = path.with_name(f".new-{path.name}")
    digest = new_sha256()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise Unavailable(
                f"blob `{sha256}` is damaged in the shared store",
                hint="restore it there; the machine that made it has it",
            )
        new.replace(path)
    except OSError as error:
        raise Unavailable(
            f"blob `{sha256}` cannot be stored in `{path.parent}`: {error.strerror}",
            hint="free or repair the disk, or make the folder writable; then try again",
        ) from error
    finally:
        new.unlink(missing_ok=True)
    return True


def store_of(data: Path) -> ObjectStore | None:
    """The store that a mirror's machines share; None where the log is the folder's own, or there is no store."""
    mirrored = mirrored_log(data)
    return None if mirrored is None or not mirrored.blobs else open_store(mirrored.blobs)


def blob_key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"

"""Blobs that several machines share: an object store beside the folder's own, which then holds copies.

A blob is in the store before anybody hears its name, is created once and never changed, and is checked when it is read.
"""

from functools import lru_cache
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.mirrored import mirrored_log
from runfold.errors import InvalidSetting, Unavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK_BYTES = 5 * 1024 * 1024


def share(data: Path, sha256: str, path: Path) -> None:
    """Give a folder's blob to all machines, where its log is shared. Raises Unavailable."""
    store = _store_of(data)
    if store is None:
        return
    import obstore
    from obstore.exceptions import AlreadyExistsError

    try:
        # One part: only so can a store refuse a name that it has.
        obstore.put(store, _key(sha256), path, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return
    except Exception as error:
        raise _unavailable(sha256, error) from error


def fetch(data: Path, sha256: str, path: Path) -> bool:
    """Bring a blob that another machine has shared into the folder; False where there is none. Raises Unavailable."""
    store = _store_of(data)
    if store is None:
        return False
    import obstore

    new = path.with_name(f".new-{path.name}")
    digest = new_sha256()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new.open("wb") as file:
            for chunk in obstore.get(store, _key(sha256)).stream(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
    except FileNotFoundError:
        new.unlink(missing_ok=True)
        return False
    except Exception as error:
        new.unlink(missing_ok=True)
        raise _unavailable(sha256, error) from error
    if digest.hexdigest() != sha256:
        new.unlink()
        raise Unavailable(
            f"blob `{sha256}` is damaged in the shared store", hint="restore it there; the machine that made it has it"
        )
    new.replace(path)
    return True


def check_store(url: str) -> None:
    """Raises InvalidSetting where the url names no store."""
    _open(url)


def _store_of(data: Path) -> "ObjectStore | None":
    mirrored = mirrored_log(data)
    return None if mirrored is None or not mirrored.blobs else _open(mirrored.blobs)


@lru_cache(maxsize=8)
def _open(url: str) -> "ObjectStore":
    from obstore.store import from_url

    try:
        return from_url(url, mkdir=True) if url.startswith("file://") else from_url(url)
    except Exception as error:
        raise InvalidSetting(
            f"`{url}` names no store for blobs: {error}",
            hint="write it as s3://bucket/prefix, gs://bucket, az://container or file:///shared/folder",
        ) from error


def _key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _unavailable(sha256: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the shared store of blobs does not answer for `{sha256}`: {type(error).__name__} {error}".splitlines()[0],
        hint="its url, credentials and network; then try again",
    )

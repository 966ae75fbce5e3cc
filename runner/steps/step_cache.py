"""Puts back what an earlier step made from the very same: its files, whole and proved, or nothing at all."""

import os
import shutil
import tempfile
from pathlib import Path

from eventstore.objects import blobs
from projections.engine.views import Views
from projections.step_cache import CachedStep, find_cached
from runfold.errors import BadRequest, NotFound, Unavailable
from runner.steps.step_files import MissingFile, digests_of


def find(data: Path, tenant: str, cache_key: str) -> CachedStep | None:
    """The newest step of the tenant that had this key."""
    views = Views.open(data)
    try:
        views.refresh()
        return find_cached(views.connection, tenant, cache_key)
    finally:
        views.close()


def restore(data: Path, folder: Path, cached: CachedStep) -> bool:
    """Make the files what they were; False where one cannot be put back, and then the step has to run."""
    root = folder.resolve()
    try:
        for name, sha256 in cached.files.items():
            path = folder / name
            if not path.resolve().is_relative_to(root):
                return False
            if not _is_there(folder, name, sha256):
                _put(data, path, sha256)
    except (OSError, NotFound, BadRequest, Unavailable):
        return False
    return True


def _is_there(folder: Path, name: str, sha256: str) -> bool:
    try:
        return (folder / name).is_file() and digests_of(folder, [name]).get(name) == sha256
    except MissingFile:
        return False


def _put(data: Path, path: Path, sha256: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".runfold-")
    try:
        with os.fdopen(handle, "wb") as target, blobs.path_of(data, sha256).open("rb") as source:
            shutil.copyfileobj(source, target)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

"""The files that a step declares: what it reads, as digests, and what it made, kept as artifacts."""

import hashlib
import mimetypes
from collections.abc import Iterable
from pathlib import Path

from eventstore.objects import blobs
from runfold.events import ArtifactStored, StepSpec

FILES_MAX = 200  # Of one step's inputs, or outputs.
FILE_BYTES_MAX = 1024**3
READ_BYTES = 1024 * 1024


class MissingFile(Exception):
    """A declared file is not there, or may not be read; its text says which."""


def digests_of(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """The sha256 of every file that the patterns name, by its path in the folder. Raises MissingFile."""
    return {name: _digest(path) for name, path in _found(folder, patterns, "input").items()}


def collect(data: Path, folder: Path, spec: StepSpec) -> list[ArtifactStored]:
    """Keep what the step made as blobs, and give the events that tell of them. Raises MissingFile, Unavailable."""
    return [_keep(data, name, path, spec.id) for name, path in _found(folder, spec.outputs, "output").items()]


def _found(folder: Path, patterns: Iterable[str], what: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    root = folder.resolve()
    for pattern in patterns:
        try:
            paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError, OSError) as error:
            raise MissingFile(f"the {what} `{pattern}` cannot be looked for: {error}") from error
        if not paths:
            raise MissingFile(f"the {what} `{pattern}` is not there")
        for path in paths:
            # A link that leads out of the workspace would carry a foreign file into the log.
            if not path.resolve().is_relative_to(root):
                raise MissingFile(f"the {what} `{path.name}` lies outside the workspace")
            found[str(path.relative_to(folder))] = path
    if len(found) > FILES_MAX:
        raise MissingFile(f"{len(found)} files are named as {what}s, at most {FILES_MAX} can be")
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise MissingFile(f"`{path.name}` cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _keep(data: Path, name: str, path: Path, step: str) -> ArtifactStored:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise MissingFile(f"the output `{name}` is larger than {FILE_BYTES_MAX} bytes")
    incoming = blobs.Incoming(data)
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                incoming.write(chunk)
        sha256 = incoming.keep()
    except OSError as error:
        raise MissingFile(f"the output `{name}` cannot be read: {error.strerror}") from error
    finally:
        incoming.discard()
    digest = hashlib.sha256(f"{step}\0{name}\0{sha256}".encode()).hexdigest()
    return ArtifactStored(
        artifact_id=digest[:32],
        name=name,
        media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
        size_bytes=incoming.size_bytes,
        sha256=sha256,
        step=step,
    )

"""The `runfold.toml` of a folder as workflows and budgets: read again whenever it has changed."""

from collections.abc import Callable
from pathlib import Path

from runfold.budgets import parse_budgets
from runfold.client.place import find_project
from runfold.errors import InvalidSetting
from runfold.workflows import Registry, parse_workflows

FILE_NAME = "runfold.toml"


def read_registry(folder: Path | None = None) -> Registry:
    """The workflows and budgets that hold in a folder; none where there is no file. Raises InvalidSetting."""
    project = find_project(Path.cwd() if folder is None else folder)
    path = None if project is None else project / FILE_NAME
    if path is None or not path.is_file():
        return Registry()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"`{path}` cannot be read: {error}", hint="correct the file, or move it away") from error
    return Registry(
        workflows=parse_workflows(text, file=str(path)),
        budgets=parse_budgets(text, file=str(path)),
        folder=str(path.parent),
        file=str(path),
    )


def watched_registry(folder: Path | None = None) -> Callable[[], Registry]:
    """`read_registry`, parsed anew only when the file is another one than last time."""
    folder = Path.cwd() if folder is None else folder
    seen: tuple[object, Registry] = (None, Registry())

    def registry() -> Registry:
        nonlocal seen
        stamp = _stamp(folder)
        if stamp is None:
            return Registry()
        if seen[0] != stamp:
            seen = (stamp, read_registry(folder))
        return seen[1]

    return registry


def _stamp(folder: Path) -> object:
    project = find_project(folder)
    try:
        return None if project is None else (project, (stat := (project / FILE_NAME).stat()).st_mtime_ns, stat.st_size)
    except OSError:
        return None

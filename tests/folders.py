"""What stands in the files of a folder."""

from pathlib import Path


def contents(data: Path) -> dict[str, bytes]:
    """What every file of a folder holds, but for those that change by being looked at."""
    return {
        str(path.relative_to(data)): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal", ".lock"))
    }


def files_with(data: Path, text: str) -> list[str]:
    return [
        str(path.relative_to(data))
        for path in sorted(data.rglob("*"))
        if path.is_file() and text.encode() in path.read_bytes()
    ]

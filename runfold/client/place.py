"""Where runs are kept on this machine, and whether a server is up there: the same answers as the tool gives."""

import fcntl
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

LOCK_FILE = "server.lock"
TOKEN_FILE = "token"  # noqa: S105 The name of a file.
SPOOL_FOLDER = "spool"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves a data folder."""

    pid: int
    url: str = ""


def data_folder(*, environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Path:
    """RUNFOLD_DATA, else what the nearest `runfold.toml` says, else `data` beside it, else the user's state folder."""
    folder = Path.cwd() if folder is None else folder
    if named := environ.get("RUNFOLD_DATA"):
        return folder / Path(named).expanduser()
    project = find_project(folder)
    if project is None:
        return _state_folder(environ) / "runfold"
    named = _named_in_file(project / "runfold.toml")
    return project / Path(named).expanduser() if named else project / "data"


def find_project(folder: Path) -> Path | None:
    """The nearest folder, going up, with a `runfold.toml` or the checkout of runfold itself."""
    for candidate in (folder, *folder.parents):
        if (candidate / "runfold.toml").is_file() or _is_checkout(candidate):
            return candidate
    return None


def read_lock(data: Path) -> Server | None:
    """What the lock file says; only true while the lock is held."""
    try:
        return msgspec.json.decode((data / LOCK_FILE).read_bytes(), type=Server)
    except (OSError, msgspec.MsgspecError):
        return None


def running_server(data: Path) -> Server | None:
    """The server of this data folder that is up now."""
    try:
        descriptor = os.open(data / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_lock(data) or Server(pid=0)
    else:
        return None
    finally:
        os.close(descriptor)


def local_token(data: Path) -> str:
    """The token of the data folder; empty where there is none to read."""
    try:
        return (data / TOKEN_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _is_checkout(folder: Path) -> bool:
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(r'^name = "runfold"$', text, re.MULTILINE) is not None


def _named_in_file(path: Path) -> str:
    import tomllib

    try:
        settings: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("settings", {})
    except (OSError, ValueError):
        return ""  # The tool says what is wrong with the file; a program goes on beside it.
    return str(settings.get("data", "")) if isinstance(settings, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _state_folder(environ: Mapping[str, str]) -> Path:
    if sys.platform == "darwin":
        return Path("~/Library/Application Support").expanduser()
    named = environ.get("XDG_STATE_HOME", "").strip()
    return Path(named or "~/.local/state").expanduser()

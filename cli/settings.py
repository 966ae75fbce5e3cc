"""Every setting with where it came from: flag, environment, `runfold.toml`, or default, in this order."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from runfold.client.place import find_project
from runfold.errors import InvalidSetting

LOG_LEVELS = ("debug", "info", "warning", "error")
ENVIRONMENT = {
    "data": "RUNFOLD_DATA",
    "log": "RUNFOLD_LOG",
    "blobs": "RUNFOLD_BLOBS",
    "url": "RUNFOLD_URL",
    "token": "RUNFOLD_TOKEN",
    "log_level": "RUNFOLD_LOG_LEVEL",
    "host": "RUNFOLD_HOST",
    "port": "RUNFOLD_PORT",
    "public_hosts": "RUNFOLD_PUBLIC_HOSTS",
    "verify_every_seconds": "RUNFOLD_VERIFY_EVERY_SECONDS",
    "rebuild_after_upgrade": "RUNFOLD_REBUILD_AFTER_UPGRADE",
    "anchor_key": "RUNFOLD_ANCHOR_KEY",
    "anchor_public_key": "RUNFOLD_ANCHOR_PUBLIC_KEY",
}
DEFAULTS: dict[str, Any] = {
    "log": "",
    "blobs": "",
    "url": "",
    "token": "",
    "log_level": "info",
    "host": "127.0.0.1",
    "port": 8321,
    "public_hosts": "",
    "verify_every_seconds": 86_400,
    "rebuild_after_upgrade": True,
    "anchor_key": "",
    "anchor_public_key": "",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    data: Path
    log: str
    """The address of a replicated log; empty: the folder's own, or the one that it mirrors."""
    blobs: str
    """The url of the object store for blobs that all machines of a replicated log share."""
    url: str
    token: str
    log_level: str
    host: str
    port: int
    public_hosts: str
    """Names by which browsers reach the server beside its own address, with commas between."""
    verify_every_seconds: int
    """How often `runfold up` proves the folder beside its work; 0 is never."""
    rebuild_after_upgrade: bool
    """Whether `runfold up` folds views anew that another version of runfold has made."""
    anchor_key: str
    """The file of the key that signs exported anchors; empty: none."""
    anchor_public_key: str
    """The file of the key that has to have signed the anchors that are given back; empty: none."""
    sources: dict[str, str]
    """Setting → what gave it, in words."""

    def at(self, url: str) -> "Settings":
        """The same for a server that was found."""
        return msgspec.structs.replace(self, url=url, sources={**self.sources, "url": "the data folder"})


def load_settings(
    flags: Mapping[str, object], *, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Settings:
    """The settings that hold in a folder; a flag that is None was not given. Raises InvalidSetting."""
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    project = find_project(folder)
    in_file = _file_settings(project)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, variable in ENVIRONMENT.items():
        if flags.get(name) is not None:
            values[name], sources[name] = flags[name], f"--{name.replace('_', '-')}"
        elif environ.get(variable):
            values[name], sources[name] = environ[variable], variable
        elif name in in_file:
            values[name], sources[name] = in_file[name], "runfold.toml"
        elif name != "data":
            values[name], sources[name] = DEFAULTS[name], "default"
    if sources.get("data") == "runfold.toml" and project is not None:
        values["data"] = project / str(values["data"])
    if "data" not in values:
        values["data"], sources["data"] = _default_data(project)
    return Settings(
        data=folder / Path(str(values["data"])).expanduser(),
        log=str(values["log"]),
        blobs=str(values["blobs"]),
        url=str(values["url"]),
        token=str(values["token"]),
        log_level=_log_level(values["log_level"], sources["log_level"]),
        host=str(values["host"]),
        public_hosts=str(values["public_hosts"]),
        port=_port(values["port"], sources["port"]),
        anchor_key=str(values["anchor_key"]),
        anchor_public_key=str(values["anchor_public_key"]),
        verify_every_seconds=_seconds(values["verify_every_seconds"], sources["verify_every_seconds"]),
        rebuild_after_upgrade=_yes_or_no(values["rebuild_after_upgrade"], sources["rebuild_after_upgrade"]),
        sources=sources,
    )


def _file_settings(project: Path | None) -> dict[str, Any]:
    if project is None or not (project / "runfold.toml").is_file():
        return {}
    import tomllib

    path = project / "runfold.toml"
    try:
        settings: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("settings", {})
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"`{path}` cannot be read: {error}", hint="correct the file, or move it away") from error
    if not isinstance(settings, dict):
        raise InvalidSetting(f"`settings` in `{path}` is not a table", hint="write it as `[settings]`")
    found = cast("dict[str, Any]", settings)
    unknown = sorted(set(found) - set(ENVIRONMENT))
    if unknown:
        raise InvalidSetting(
            f"`{path}` has an unknown setting `{unknown[0]}`", hint=f"known are {', '.join(sorted(ENVIRONMENT))}"
        )
    return found


def _default_data(project: Path | None) -> tuple[Path, str]:
    if project is not None:
        return project / "data", f"default beside {project}"
    import platformdirs

    return platformdirs.user_state_path("runfold"), "default for this user"


def _log_level(value: object, source: str) -> str:
    level = str(value).lower()
    if level not in LOG_LEVELS:
        raise InvalidSetting(f"log level `{value}` from {source} is unknown", hint=f"use {', '.join(LOG_LEVELS)}")
    return level


def _port(value: object, source: str) -> int:
    try:
        port = int(str(value))
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise InvalidSetting(f"port `{value}` from {source} is not a port", hint="use 0 (any free one) to 65535")
    return port


def _seconds(value: object, source: str) -> int:
    try:
        seconds = int(str(value))
    except ValueError:
        seconds = -1
    if seconds < 0:
        raise InvalidSetting(
            f"`{value}` from {source} is no number of seconds", hint="for example 86400 for a day; 0 is never"
        )
    return seconds


def _yes_or_no(value: object, source: str) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise InvalidSetting(f"`{value}` from {source} is neither true nor false", hint="use true or false")
    return text == "true"

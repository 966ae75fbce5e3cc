"""What has to be so of the data folder before a command works in it: that it is here, writable, ours and up to date."""

import os
from contextlib import closing, suppress
from pathlib import Path

from cli.screen import talk
from cli.settings import Settings
from eventstore.bringing_forward import OLD_VERSION, is_old
from eventstore.file_systems import refuse_network
from eventstore.log_file import USER_VERSION, open_reader
from runfold.errors import InvalidSetting, NotAllowed, NotFound, Unavailable


def need_folder(settings: Settings, command: str) -> None:
    """Refuse what only works where the data is. Raises NotAllowed, naming that machine."""
    if settings.url:
        from urllib.parse import urlsplit

        raise NotAllowed(
            f"`runfold {command}` works on the data folder, and RUNFOLD_URL names a server",
            hint=f"run it on {urlsplit(settings.url).hostname or settings.url}, without RUNFOLD_URL",
        )


def prepare_folder(data: Path) -> None:
    """Make the data folder where there is none, and bring its log forward where that is of the format before.

    Raises InvalidSetting, BadRequest, before anything in it is changed; Unavailable, Damaged.
    """
    refuse_network(data)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(
            f"the data folder `{data}` cannot be made: {error.strerror}",
            hint="choose another with --data or RUNFOLD_DATA; nothing was changed",
        ) from error
    if not os.access(data, os.W_OK | os.X_OK):
        raise InvalidSetting(
            f"the data folder `{data}` cannot be written",
            hint="make it writable, or choose another with --data; nothing was changed",
        )
    check_log(data, oldest=OLD_VERSION)


def check_log(data: Path, *, oldest: int = USER_VERSION) -> None:
    """Refuse a log that is another program's or a newer runfold's; one from `oldest` on is brought forward.

    Raises BadRequest, Unavailable, Damaged.
    """
    with suppress(NotFound):
        with closing(open_reader(data, oldest=oldest)) as connection:
            is_before = is_old(connection)
        if is_before:
            from eventstore.writing import bring_log_forward

            talk(f"note: the log in `{data}` is of an older runfold and is brought forward, once")
            bring_log_forward(data)


def bring_mirror(settings: Settings) -> None:
    """Bring the folder to where the replicated log is now, or say that it is behind."""
    import asyncio

    from eventstore.opening import open_log

    async def bring() -> None:
        log = await open_log(settings.data, settings.log, blobs=settings.blobs)
        try:
            await log.bounds()
        finally:
            await log.close()

    try:
        asyncio.run(bring())
    except Unavailable as error:
        talk(f"note: what follows may be old: {error.message}")

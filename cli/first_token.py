"""The admin's token of a data folder: a file for its owner; on a shared log the other servers know it too."""

import hashlib
import os
import re
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import structlog

from cli.actor import local_actor
from eventstore.contract import EventLog
from projections.tokens import TokenBook, digest_of
from runfold.client.place import TOKEN_FILE
from runfold.errors import InvalidSetting, RunfoldError

HOST_CHARACTERS_MAX = 40
FOLDER_CHARACTERS = 6


async def first_token(log: EventLog, data: Path) -> str:
    """The token of a folder, made at its first start, and made anew where somebody has revoked it."""
    token = local_token(data)
    if log.presence is None:
        return token
    book = TokenBook(log)
    try:
        await book.refresh()
        if book.is_over(digest_of(token)):
            (data / TOKEN_FILE).unlink(missing_ok=True)
            token = local_token(data)
        await book.share(digest_of(token), name=token_name(data), actor=local_actor())
    except RunfoldError as error:
        structlog.get_logger().warning("other servers do not know this folder's token", error=error.message)
    return token


def token_name(data: Path) -> str:
    """By which machine and folder it is, so that a folder's next token takes the place of its last."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:HOST_CHARACTERS_MAX]
    return f"admin@{host}-{hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:FOLDER_CHARACTERS]}"


def local_token(data: Path) -> str:
    """The token as it is in the folder, made where there is none; only the owner can read the file.

    Raises InvalidSetting where the file holds none: an empty token would let everybody in.
    """
    path = data / TOKEN_FILE
    if not path.exists():
        _make_token(path)
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if not (token and token.isascii() and token.isprintable()):
        raise InvalidSetting(f"`{path}` holds no token", hint="remove it: the next start makes one")
    return token


def _make_token(path: Path) -> None:
    """Make it under another name, so that nobody ever reads half of it; of two who make it, one does."""
    descriptor, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.unlink(new)

"""Puts the question that a run waits with to the person at this terminal, who may also answer it elsewhere."""

import asyncio
import contextlib
import os

_YES, _NO = ("y", "yes"), ("n", "no")
LINE_BYTES_MAX = 1024


class Asking:
    """`actor` is who answers here."""

    def __init__(self, actor: str) -> None:
        self.actor = actor

    async def ask(self, question: str) -> bool | None:
        """The answer; None where none comes from here. Cancelled when the question is answered elsewhere."""
        while _is_in_front():
            _say(f"runfold: {''.join(it if it.isprintable() else ' ' for it in question)} [y/n] ")
            said = await _line()
            if said is None:
                return None
            if said in _YES + _NO:
                return said in _YES
        return None


def _is_in_front() -> bool:
    """Who runs in the background would be stopped for reading from the terminal."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True


async def _line() -> str | None:
    """One line as it was typed; None at its end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(0, ready.set)
    try:
        await ready.wait()
    except asyncio.CancelledError:
        _say("\n")
        raise
    finally:
        loop.remove_reader(0)
    try:
        content = os.read(0, LINE_BYTES_MAX)
    except OSError:
        return None
    return content.decode(errors="replace").strip().lower() if content else None


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())

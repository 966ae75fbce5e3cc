"""A pseudo terminal that changes no byte and keeps our terminal's size; and our own modes, put back at the end."""

import contextlib
import fcntl
import os
import termios
from typing import Any


def is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False


def open_terminal(like: int) -> tuple[int, int]:
    """A (master, slave) pair of `like`'s size, without output processing."""
    master, slave = os.openpty()
    modes = termios.tcgetattr(slave)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    copy_size(like, master)
    return master, slave


def copy_size(source: int, target: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8))


def saved_modes() -> list[Any] | None:
    try:
        return termios.tcgetattr(0)
    except (termios.error, OSError):
        return None


def restore_modes(modes: list[Any] | None) -> None:
    if modes is not None:
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(0, termios.TCSADRAIN, modes)

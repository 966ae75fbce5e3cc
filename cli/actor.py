"""Who acts at this terminal."""

import getpass


def local_actor() -> str:
    """The person at this terminal, as the log names actors."""
    try:
        return f"user:{getpass.getuser()}"
    except (OSError, KeyError):
        return "user:unknown"

"""Who this machine and a process are, in words that another process can check later."""

import getpass
import os
import socket
from pathlib import Path
from typing import TypedDict

from eventstore.boot import boot_id


def host() -> str:
    return socket.gethostname()


def account() -> str:
    """Whose processes these are, as `user@host`."""
    try:
        return f"{getpass.getuser()}@{host()}"
    except (OSError, KeyError):
        return f"{os.getuid()}@{host()}"


def process_started_at(pid: int) -> str:
    """When a living process began, in the kernel's ticks since boot; empty when it is gone or not told."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


class ProcessIdentity(TypedDict):
    pid: int
    pid_started_at: str | None
    boot_id: str | None


def this_process() -> ProcessIdentity:
    """This very process, as `run_started` names it: its number alone may be another's later."""
    pid = os.getpid()
    return {"pid": pid, "pid_started_at": process_started_at(pid) or None, "boot_id": boot_id() or None}


def is_process_alive(pid: int, started_at: str) -> bool:
    """Whether this very process still is, not another one that was given its number."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    return process_started_at(pid) == started_at != ""


def is_process_stopped(pid: int) -> bool:
    """Whether it rests by SIGSTOP or Ctrl-Z: it renews nothing, and yet is not lost."""
    return _stat(pid)[:1] in (["T"], ["t"])


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []

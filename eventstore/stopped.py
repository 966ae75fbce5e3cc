"""Whether a process was stopped (Ctrl-Z, SIGSTOP): then it does not go on by itself, nor gives back what it holds."""

from pathlib import Path

LOCKS = Path("/proc/locks")
"""Who holds which lock, see proc_locks(5)."""


def is_stopped(pid: int) -> bool:
    """False too where nobody can tell."""
    try:
        # The name before the state is in brackets, and may hold any of its own.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False

"""Which boot of this machine it is: what a crash of a process leaves is whole, what a power cut leaves may not be."""

from pathlib import Path


def boot_id() -> str:
    """Changes with every boot; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""

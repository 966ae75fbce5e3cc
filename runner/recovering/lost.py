"""Which workers of this host are gone: their leases say so, and asking changes nothing."""

from pathlib import Path

from eventstore.boot import boot_id
from eventstore.leases import LEASE_SECONDS, Lease, Leases, monotonic_us, wall_us
from runner import machine


def lost_leases(leases: Leases, now_us: int) -> list[Lease]:
    """Leases whose worker is gone, or has not renewed in time though nobody has stopped it.

    `now_us` is of CLOCK_MONOTONIC.
    """
    this_boot = boot_id()
    return [lease for lease in leases.of_host(machine.host()) if _is_lost(lease, this_boot, now_us)]


def lost_drivers(data: Path) -> dict[str, float]:
    """Run → seconds since its lost driver was last heard of, of all lost drivers of this host."""
    leases = Leases.open_reader(data)
    if leases is None:
        return {}
    try:
        lost = lost_leases(leases, monotonic_us())
    finally:
        leases.close()
    now_us = wall_us()
    return {lease.run_id: max(0.0, (now_us - lease.expires_wall_us) / 1_000_000 + LEASE_SECONDS) for lease in lost}


def _is_lost(lease: Lease, boot_id: str, now_us: int) -> bool:
    if lease.boot_id != boot_id or not machine.is_process_alive(lease.pid, lease.pid_started_at):
        return True
    return lease.expires_monotonic_us <= now_us and not machine.is_process_stopped(lease.pid)

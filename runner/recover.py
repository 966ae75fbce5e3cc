"""Ends what was driven on this host and has lost its driver; reported runs and other hosts' runs are left alone."""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

from eventstore.contract import EventLog
from eventstore.leases import Lease, Leases, monotonic_us
from eventstore.ledger import Ledger
from runfold.commands import LoseClaim
from runfold.errors import NotFound, Refused
from runner import machine


async def recover(ledger: Ledger, log: EventLog, *, data: Path, now: Callable[[], int] = monotonic_us) -> list[str]:
    """Take the claim from every lost worker of this host; the ids of the runs it was taken from.

    `now` counts microseconds of CLOCK_MONOTONIC.
    """
    if not (data / "leases.db").exists():
        return []
    leases = await asyncio.to_thread(Leases.open, data)
    try:
        lost = await asyncio.to_thread(_lost, leases, now())
        return [lease.run_id for lease in lost if await _lose(ledger, log, leases, lease)]
    finally:
        leases.close()


def _lost(leases: Leases, now_us: int) -> list[Lease]:
    """Leases whose worker is gone, or has not renewed in time though nobody has stopped it."""
    host, boot_id = machine.host(), machine.boot_id()
    return [lease for lease in leases.of_host(host) if _is_lost(lease, boot_id, now_us)]


def _is_lost(lease: Lease, boot_id: str, now_us: int) -> bool:
    if lease.boot_id != boot_id or not machine.is_process_alive(lease.pid, lease.pid_started_at):
        return True
    return lease.expires_monotonic_us <= now_us and not machine.is_process_stopped(lease.pid)


async def _lose(ledger: Ledger, log: EventLog, leases: Leases, lease: Lease) -> bool:
    is_lost = False
    try:
        # A worker that died between its lease and its first append has left no run to fail.
        if await log.last(lease.run_id) is not None:
            executed = await ledger.execute(
                lease.run_id,
                LoseClaim(claim=lease.claim, reason="the worker is gone"),
                command_id=str(uuid.uuid4()),
                actor="system",
                tenant=lease.tenant,
            )
            is_lost = bool(executed.events)
    except (Refused, NotFound):
        # The run has ended, or another worker has it: only the row is left over.
        is_lost = False
    await asyncio.to_thread(leases.release, lease.run_id, lease.claim)
    return is_lost

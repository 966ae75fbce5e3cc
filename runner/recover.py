"""Ends what was driven on this host and has lost its driver; reported runs and other hosts' runs are left alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from eventstore.contract import EventLog
from eventstore.leases import Lease, Leases, monotonic_us
from eventstore.ledger import Ledger
from runfold.commands import LoseClaim
from runfold.errors import NotFound, Refused
from runner.lost import lost_leases
from runner.process import end_leftovers


async def recover(ledger: Ledger, log: EventLog, *, data: Path, now: Callable[[], int] = monotonic_us) -> list[str]:
    """Take the claim from every lost worker of this host; the ids of the runs it was taken from.

    `now` counts microseconds of CLOCK_MONOTONIC.
    """
    if not (data / "leases.db").exists():
        return []
    leases = await asyncio.to_thread(Leases.open, data)
    try:
        lost = await asyncio.to_thread(lost_leases, leases, now())
        return [lease.run_id for lease in lost if await _lose(ledger, log, leases, lease)]
    finally:
        leases.close()


async def _lose(ledger: Ledger, log: EventLog, leases: Leases, lease: Lease) -> bool:
    is_lost = False
    # Its keeper ends what it kept; this is for what a killed keeper left. First of all, because the run's next turn
    # carries the same marker.
    await asyncio.to_thread(end_leftovers, lease.run_id)
    try:
        # A worker that died between its lease and its first append has left no run to fail.
        if await log.last(lease.run_id) is not None:
            executed = await ledger.execute(
                lease.run_id,
                LoseClaim(claim=lease.claim, reason="the worker is gone"),
                actor="system",
                tenant=lease.tenant,
            )
            is_lost = bool(executed.events)
    except (Refused, NotFound):
        # The run has ended, or another worker has it: only the row is left over.
        is_lost = False
    await asyncio.to_thread(leases.release, lease.run_id, lease.claim)
    return is_lost

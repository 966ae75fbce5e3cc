"""Ends what was driven on this host and has lost its driver; reported runs and other hosts' runs are left alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from eventstore.boot import boot_id
from eventstore.contract import EventLog
from eventstore.failpoints import reach
from eventstore.leases import Lease, Leases, monotonic_us
from eventstore.ledger import Ledger
from runfold.commands import LoseClaim
from runfold.errors import Damaged, NotFound, Refused
from runner import machine
from runner.recovering.lost import lost_leases
from runner.threads import in_thread
from runner.turns.process import end_keepers, end_leftovers, keepers_of

POLL_SECONDS = 0.05


async def recover(
    ledger: Ledger, log: EventLog, *, data: Path, now: Callable[[], int] = monotonic_us, waits: bool = True
) -> list[str]:
    """Take the claim from every lost worker of this host; the ids of the runs it was taken from.

    A run whose last turn is still being ended by its keeper is waited for, or, without `waits`, left for the next
    look: its next turn must not begin beside it. `now` counts microseconds of CLOCK_MONOTONIC.
    """
    if not (data / "leases.db").exists():
        return []
    leases = await asyncio.to_thread(Leases.open, data)
    found: list[str] = []
    try:
        lost = await in_thread(lost_leases, leases, now())
        while lost:
            ending = [lease for lease in lost if await asyncio.to_thread(_is_ending, lease, now())]
            found += [it.run_id for it in lost if it not in ending and await _lose(ledger, log, leases, it)]
            if not waits or not ending:
                break
            lost = ending
            await asyncio.sleep(POLL_SECONDS)
        return found
    finally:
        leases.close()


def _is_ending(lease: Lease, now_us: int) -> bool:
    """Whether a keeper has processes of the lost worker's turn, and is not overdue with their end."""
    keepers = keepers_of(lease.run_id)
    if not keepers or lease.boot_id != boot_id():
        return False
    if machine.is_process_alive(lease.pid, lease.pid_started_at):
        # It hangs, and its keeper has heard of nothing: this is what tells it.
        end_leftovers(lease.run_id)
    # The worker died, at the latest, when its lease ran out.
    longest_us = int(max(it.ends_within_seconds for it in keepers) * 1_000_000)
    return now_us < lease.expires_monotonic_us + longest_us


async def _lose(ledger: Ledger, log: EventLog, leases: Leases, lease: Lease) -> bool:
    is_lost = False
    # This is for what a killed keeper left, or one that is overdue. First of all, because the run's next turn carries
    # the same marker.
    await asyncio.to_thread(end_leftovers, lease.run_id)
    await asyncio.to_thread(end_keepers, lease.run_id)
    try:
        # A worker that died between its lease and its first append has left no run to fail.
        if await log.last(lease.run_id) is not None:
            reach("before.LoseClaim")
            executed = await ledger.execute(
                lease.run_id,
                LoseClaim(claim=lease.claim, reason="the worker is gone"),
                actor="system",
                tenant=lease.tenant,
            )
            reach("after.LoseClaim")
            is_lost = bool(executed.events)
    except (Refused, NotFound):
        # The run has ended, or another worker has it: only the row is left over.
        is_lost = False
    except Damaged:
        # Nothing follows from what was altered; whoever restores it finds the row.
        return False
    await in_thread(leases.release, lease.run_id, lease.claim)
    return is_lost

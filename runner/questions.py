"""Expires what nobody answered in time: `up` asks every second, and without a server every writing command first."""

import time
import uuid
from collections.abc import Callable, Iterable

from eventstore.ledger import Ledger
from runfold.commands import CheckLimits
from runfold.envelope import time_us
from runfold.errors import NotFound, Refused


async def expire_overdue(
    ledger: Ledger,
    asking: Iterable[tuple[str, str, str]],
    *,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> list[str]:
    """The ids of the runs that stopped; `asking` are run, tenant and the time by which an open question expires."""
    now = now_us()
    overdue = {run_id: tenant for run_id, tenant, expires_at in asking if _is_past(expires_at, now)}
    return [run_id for run_id, tenant in overdue.items() if await _expire(ledger, run_id, tenant)]


async def _expire(ledger: Ledger, run_id: str, tenant: str) -> bool:
    try:
        executed = await ledger.execute(
            run_id, CheckLimits(), command_id=str(uuid.uuid4()), actor="system", tenant=tenant
        )
    except (Refused, NotFound):
        return False  # It was answered, or has ended, meanwhile.
    return bool(executed.events)


def _is_past(expires_at: str, now: int) -> bool:
    try:
        return time_us(expires_at) <= now
    except ValueError:
        return False

"""Takes the claim from workers of other machines that have fallen silent; on one machine, `recover` knows more."""

from collections.abc import Iterable

from eventstore.contract import Presence
from eventstore.ledger import Ledger
from runfold.commands import LoseClaim
from runfold.errors import Damaged, NotFound, Refused
from runfold.state import Run

LOOK_SECONDS = 5.0


async def lose_silent(ledger: Ledger, presence: Presence, active: Iterable[Run]) -> list[str]:
    """The ids of the runs whose worker says nowhere any more that it lives. Raises Unavailable.

    It may only be cut off: its next append is then refused by its claim's number, and it ends what it drives.
    """
    driven = [run for run in active if run.worker and run.claim]
    silent = {worker for worker in {run.worker for run in driven} if not await presence.is_alive(worker)}
    return [run.run_id for run in driven if run.worker in silent and await _lose(ledger, run)]


async def _lose(ledger: Ledger, run: Run) -> bool:
    command = LoseClaim(claim=run.claim, reason=f"its worker {run.worker} is not heard of any more")
    try:
        executed = await ledger.execute(run.run_id, command, actor="system", tenant=run.tenant)
    except (Refused, NotFound, Damaged):
        return False  # It has ended meanwhile, another worker has it, or nothing follows from what was altered.
    return bool(executed.events)

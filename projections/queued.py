"""Which runs were queued in a stretch of the log, as its rows say: for what views cannot come to.

Nothing of these rows is checked: who takes such a run reads its own events, which are.
"""

from eventstore.places import runs_with
from eventstore.reading import bounds
from eventstore.sqlite3_module import sqlite3
from projections.engine.opening import Folded

QUEUES = frozenset({"run_queued", "run_resumed", "run_requeued", "claim_released"})
STRETCH_POSITIONS = 20_000  # Some hundredths of a second, in which no other question is answered.


def queued_after(connection: sqlite3.Connection, after: int) -> tuple[list[str], int]:
    """The next of them after a position, in the order in which they were queued, and up to where was looked."""
    log = connection.log if isinstance(connection, Folded) else None
    if log is None:
        return [], after
    upto = min(bounds(log).last, after + STRETCH_POSITIONS)
    return runs_with(log, sorted(QUEUES), after=after, upto=upto), upto

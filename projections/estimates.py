"""What past runs of a workflow took, read from the list of runs."""

import msgspec

from eventstore.sqlite3_module import sqlite3
from runfold.estimates import Estimate, Figure, Past, estimate_of
from runfold.state import Tokens

RUNS_MAX = 100  # The newest: what a workflow cost a year ago says little of it now.


def estimate(connection: sqlite3.Connection, workflow: str, *, tenant: str, figure: Figure | None = None) -> Estimate:
    """From the tenant's own completed runs that were driven or reported here."""
    rows = connection.execute(
        """SELECT body FROM runs WHERE tenant = ? AND workflow = ? AND status = 'completed'
        ORDER BY created_at_us DESC, run_id DESC LIMIT ?""",
        (tenant, workflow, RUNS_MAX),
    ).fetchall()
    runs = [_decode(body) for (body,) in rows]
    past = [
        Past(cost_micros=run.cost_micros, duration_us=run.active_us, tokens=run.tokens.total)
        for run in runs
        if run.driver != "imported"
    ]
    return estimate_of(workflow, past, figure)


class _Run(msgspec.Struct, frozen=True):
    """The little of a folded run that is asked here: a graph of a thousand steps is not decoded for it."""

    driver: str = "queue"
    cost_micros: int | None = None
    active_us: int = 0
    tokens: Tokens = Tokens()


_decode = msgspec.json.Decoder(_Run).decode

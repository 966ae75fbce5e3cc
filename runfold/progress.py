"""How far a run has come, in the pieces that it was planned in: its units, else the steps of its graph."""

import msgspec

from runfold.state import Run
from runfold.units import units_failed

_DONE = frozenset({"completed", "skipped"})


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """`done` of `total` pieces, each a `piece` (`frame`, `step`); `failed` ones are ended too, and not done."""

    piece: str
    done: int
    failed: int
    total: int


def progress(run: Run) -> Progress | None:
    """None where nothing says how much there is to do."""
    if run.units_total:
        return Progress(
            piece=run.unit_name, done=run.units.approved, failed=units_failed(run.units), total=run.units_total
        )
    if not run.steps:
        return None
    states = [run.step_states[spec.id].status for spec in run.steps if spec.id in run.step_states]
    return Progress(
        piece="step",
        done=sum(status in _DONE for status in states),
        failed=states.count("failed"),
        total=len(run.steps),
    )

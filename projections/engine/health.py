"""What keeps a view from following the log, and what a person types to mend it."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from projections.catalogue import VIEWS
from projections.engine.checkpoints import Checkpoint
from projections.engine.underway import Underway
from projections.engine.view import View

REMEDY = (
    "`runfold rebuild` folds the views anew; where that parks too, this runfold cannot read the event: upgrade it,"
    " or let the view leave it out with `runfold skip VIEW POSITION`"
)


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """`parked`: the fold refused the event after `position`; `another_version`: another runfold made its rows."""

    view: str
    state: Literal["parked", "another_version"]
    position: int
    error: str
    remedy: str = REMEDY

    @property
    def sentence(self) -> str:
        return f"view `{self.view}` stays at position {self.position}: {self.error}"


def troubles_of(checkpoints: Mapping[str, Checkpoint], views: tuple[View, ...] = VIEWS) -> list[Trouble]:
    """The views that stay behind until somebody does something."""
    found: list[Trouble] = []
    for view in views:
        checkpoint = checkpoints.get(view.name)
        if checkpoint is None:
            continue
        if checkpoint.fingerprint != view.fingerprint:
            error = "it was folded by another version of runfold"
            found.append(Trouble(view=view.name, state="another_version", position=checkpoint.position, error=error))
        elif checkpoint.status == "parked":
            found.append(Trouble(view=view.name, state="parked", position=checkpoint.position, error=checkpoint.error))
    return found


def remedy_of(trouble: Trouble, underway: Underway | None) -> str:
    """What helps; where the views are being folded anew already, how far that is."""
    return trouble.remedy if underway is None else f"wait: {underway.sentence}"


def public_error(trouble: Trouble) -> str:
    """The kind of the error without what the event held: for probes, which anyone may ask."""
    return trouble.error if trouble.state != "parked" else ": ".join(trouble.error.split(": ")[:2])

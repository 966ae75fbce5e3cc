"""What a reading command asks for, answered by the data folder itself or by a server that has it, alike."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from projections.run_list import RunFilter, RunList
from runfold.envelope import Recorded
from runfold.errors import BadRequest, NotFound, Unavailable
from runfold.snapshot import Snapshot

if TYPE_CHECKING:
    from projections.approvals import ApprovalFilter, ApprovalList
    from projections.audit.answers import AuditCount, AuditList
    from projections.audit.question import AuditFilter
    from projections.causes import Causation
    from projections.history import Transition
    from projections.spending import BudgetList
    from projections.steps import StepList
    from projections.usage import CostList
    from runfold.difference import Difference
    from runfold.markdown import Why

ID_CHARACTERS = 28  # Of a whole id.
SUGGESTED_RUNS = 200  # Among so many of the newest a mistyped id is looked for.
CANDIDATES_SHOWN = 3


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """`total` is unknown where only some types were asked for; `next_cursor` is null at the end."""

    items: list[Recorded]
    total: int | None
    next_cursor: str | None


class Runs(Protocol):
    @property
    def poll_seconds(self) -> float:
        """How long to wait before asking again."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether lists lack what the log has: they are still being folded from it. One run is as it is now."""
        ...

    def list_runs(self, wanted: RunFilter) -> RunList: ...

    def get_run(self, run_id: str) -> Snapshot | None: ...

    def get_run_at(self, run_id: str, at: str) -> Snapshot:
        """The run as it was at a position or a time. Raises NotFound, BadRequest."""
        ...

    def ids_beginning(self, prefix: str, *, limit: int) -> list[str]:
        """The newest first."""
        ...

    def history(self, run_id: str) -> "list[Transition]": ...

    def steps(self, run_id: str, *, status: tuple[str, ...]) -> "StepList":
        """All of them."""
        ...

    def costs(self, *, by: str, limit: int, offset: int = 0) -> "CostList": ...

    def budgets(self) -> "BudgetList": ...

    def audit(self, wanted: "AuditFilter") -> "AuditList": ...

    def audit_counts(self, wanted: "AuditFilter", *, by: str) -> "list[AuditCount]": ...

    def causes(self, run_id: str, event: str, *, limit: int) -> "Causation":
        """What made an event, by its id or its position, and what it made. Raises NotFound, BadRequest."""
        ...

    def approvals(self, wanted: "ApprovalFilter") -> "ApprovalList": ...

    def events(self, run: Snapshot, *, after: int, types: tuple[str, ...], limit: int | None) -> EventPage: ...

    def rests(self, run_id: str) -> bool:
        """Whether the run rests now."""
        ...

    def output_start(self, run_id: str, *, tail: int | None) -> int | None:
        """Where in its output the last so many lines begin; None while it has none."""
        ...

    def output(self, run_id: str, *, offset: int) -> bytes:
        """What it wrote from there on, as much as is read at once; empty at the end."""
        ...

    def report(self, run_id: str) -> str:
        """In Markdown."""
        ...

    def why(self, run_id: str) -> "Why": ...

    def difference(self, a: str, b: str, *, at: str | None, other_at: str | None) -> "Difference":
        """The moments are as in `get_run_at`; now where they are None."""
        ...

    def follow(self, run_id: str, *, after: int) -> Iterator[Recorded]:
        """The run's events from a position on; ends when all are delivered and the run rests."""
        ...


def find_run(runs: Runs, text: str) -> Snapshot:
    """The run that was meant: an id, a unique beginning of one (also without `r_`), or `@last`."""
    run_id = _newest(runs) if text == "@last" else _complete(runs, text)
    snapshot = runs.get_run(run_id) if run_id else None
    if snapshot is None:
        raise NotFound(f"there is no run `{text}`", hint=_did_you_mean(runs, text))
    return snapshot


def list_all(runs: Runs, wanted: RunFilter) -> RunList:
    """Every run that matches, however many pages that takes."""
    page = runs.list_runs(wanted)
    items = list(page.items)
    cursor = page.next_cursor
    while cursor is not None:
        following = runs.list_runs(msgspec.structs.replace(wanted, cursor=cursor))
        items += following.items
        cursor = following.next_cursor
    return msgspec.structs.replace(page, items=items, next_cursor=None)


def _newest(runs: Runs) -> str | None:
    items = runs.list_runs(RunFilter(tenant=None, limit=1)).items
    if runs.is_behind:
        raise Unavailable(
            "which run is the newest is not known yet: the log is still being folded into the views",
            hint="name the run by its id, or try again in some seconds",
        )
    return items[0].id if items else None


def _complete(runs: Runs, text: str) -> str | None:
    if not text:
        return None
    if len(text) == ID_CHARACTERS and text.startswith("r_"):
        return text
    for prefix in (text, f"r_{text}"):
        found = runs.ids_beginning(prefix, limit=CANDIDATES_SHOWN + 1)
        if prefix in found:
            return prefix
        if len(found) > 1:
            more = ", …" if len(found) > CANDIDATES_SHOWN else ""
            raise BadRequest(
                f"`{text}` is the beginning of more than one run",
                hint=f"type more of it: {', '.join(found[:CANDIDATES_SHOWN])}{more}",
            )
        if found:
            return found[0]
    return None


def _did_you_mean(runs: Runs, text: str) -> str:
    import difflib

    recent = [item.id for item in runs.list_runs(RunFilter(tenant=None, limit=SUGGESTED_RUNS)).items]
    if not recent:
        return "`runfold run -- COMMAND` records the first one"
    beginnings = {run_id[: max(len(text), 5)]: run_id for run_id in recent}
    wanted = text if text.startswith("r_") else f"r_{text}"
    near = difflib.get_close_matches(wanted, beginnings, n=1, cutoff=0.7)
    return f"did you mean `{beginnings[near[0]]}`?" if near else "`runfold ps` lists the runs, `@last` is the newest"

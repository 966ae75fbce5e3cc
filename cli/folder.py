"""The runs of a data folder on this machine, read from its views and its log; no server needed."""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cli.data_folder import bring_mirror, check_log
from cli.last_lines import last_lines_at
from cli.runs import EventPage
from cli.screen import talk
from cli.server_lock import running_server
from cli.settings import Settings
from eventstore.mirrored import mirrored_log
from eventstore.proof.checking import open_checked
from eventstore.reading import bounds, check_next, data_version, end_of, read_page
from eventstore.reading import ids_beginning as logged_ids_beginning
from eventstore.run_files import output_path
from projections.engine.projector import Freshness
from projections.engine.view import View
from projections.engine.views import BEHIND_MAX, Views
from projections.run_list import RunFilter, RunList, list_runs
from projections.runs import VIEW as RUNS
from projections.runs import find_run_ids, get_fold, get_run
from runfold.envelope import Recorded
from runfold.errors import Damaged, Diverged, NotFound, Trimmed, Unavailable
from runfold.snapshot import Snapshot, snapshot
from runfold.state import RESTING, Run

if TYPE_CHECKING:
    from eventstore.sqlite3_module import sqlite3
    from projections.approvals import ApprovalFilter, ApprovalList
    from projections.audit.answers import AuditCount, AuditList
    from projections.audit.question import AuditFilter
    from projections.causes import Causation
    from projections.history import Transition
    from projections.past import At
    from projections.spending import BudgetList
    from projections.steps import StepList
    from projections.usage import CostList
    from runfold.difference import Difference
    from runfold.markdown import Why

STEPS_MAX = 1_000_000  # More than a run can have.
POLL_SECONDS = 0.05  # A person sees no delay, and an idle watcher costs next to nothing.
CHUNK_BYTES = 64 * 1024
ENDS = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})


class FolderRuns:
    poll_seconds = POLL_SECONDS

    def __init__(self, settings: Settings, views: Views) -> None:
        self._settings = settings
        self.views = views
        self.is_behind = False
        self._others: dict[str, Views] = {}

    def list_runs(self, wanted: RunFilter) -> RunList:
        return list_runs(self.views.connection, wanted)

    def get_run(self, run_id: str) -> Snapshot | None:
        found = get_run(self.views.connection, run_id, tenant=None)
        if self.is_behind:
            from projections.past import At

            # One run is folded from the log at once.
            with suppress(NotFound, Trimmed):
                now = self._logged(run_id, At())
                return now if found is None else replace(now, lineage=found.lineage)
        return found

    def get_run_at(self, run_id: str, at: str) -> Snapshot:
        from projections.past import parse_at

        moment = parse_at(at)
        with closing(open_checked(self._settings.data)) as connection:
            last = bounds(connection).last
        if moment.position is not None and moment.position > last:
            raise Diverged(
                f"the log ends at position {last}",
                hint=f"`runfold status {run_id}` shows the run as it is now",
                run_id=run_id,
            )
        return self._logged(run_id, moment)

    def _logged(self, run_id: str, at: "At") -> Snapshot:
        run, position = self._run_at(run_id, at)
        return snapshot(run, position=position)

    def _run_at(self, run_id: str, at: "At") -> tuple[Run, int]:
        from projections.past import run_at

        with closing(open_checked(self._settings.data)) as connection:
            return run_at(connection, run_id, at)

    def ids_beginning(self, prefix: str, *, limit: int) -> list[str]:
        if self.is_behind:
            with closing(open_checked(self._settings.data)) as connection:
                return logged_ids_beginning(connection, prefix, limit=limit)
        return find_run_ids(self.views.connection, prefix, tenant=None, limit=limit)

    def history(self, run_id: str) -> "list[Transition]":
        from projections.history import VIEW, run_history

        return run_history(self._connection(VIEW), run_id)

    def steps(self, run_id: str, *, status: tuple[str, ...]) -> "StepList":
        from projections.steps import StepList, list_steps

        found = list_steps(self.views.connection, run_id, tenant=None, status=status, limit=STEPS_MAX)
        return found or StepList(items=[], total=0, next_cursor=None)

    def costs(self, *, by: str, limit: int, offset: int = 0) -> "CostList":
        from projections.usage import VIEW, CostFilter, costs

        return costs(self._connection(VIEW), CostFilter(tenant=None, by=by, limit=limit, offset=offset))

    def budgets(self) -> "BudgetList":
        from cli.workflow_file import read_registry
        from projections.spending import list_budgets
        from projections.usage import VIEW

        rules = read_registry().budgets
        return list_budgets(self._connection(VIEW), rules, tenant=None, now_us=time.time_ns() // 1_000)

    def audit(self, wanted: "AuditFilter") -> "AuditList":
        from projections.audit.answers import find_audit
        from projections.audit.fold import VIEW

        return find_audit(self._connection(VIEW), wanted)

    def audit_counts(self, wanted: "AuditFilter", *, by: str) -> "list[AuditCount]":
        from projections.audit.answers import count_audit
        from projections.audit.fold import VIEW

        return count_audit(self._connection(VIEW), wanted, by=by)

    def causes(self, run_id: str, event: str, *, limit: int) -> "Causation":
        from projections.audit.fold import VIEW
        from projections.causes import causation, read_chain

        connection = open_checked(self._settings.data)
        try:
            chain = read_chain(connection, run_id, event)
        finally:
            connection.close()
        return causation(self._connection(VIEW), chain, tenant=None, limit=limit)

    def approvals(self, wanted: "ApprovalFilter") -> "ApprovalList":
        from projections.approvals import VIEW, list_approvals

        return list_approvals(self._connection(VIEW), wanted)

    def events(self, run: Snapshot, *, after: int, types: tuple[str, ...], limit: int | None) -> EventPage:
        found: list[Recorded] = []
        connection = open_checked(self._settings.data)
        try:
            while True:
                page = read_page(connection, after=after, stream=run.id)
                found += [recorded for recorded in page.events if not types or recorded.type in types]
                if not page.events or (limit is not None and len(found) > limit):
                    break
                after = page.scanned_to
        finally:
            connection.close()
        items = found if limit is None else found[:limit]
        cursor = items[-1].cursor if len(items) < len(found) else None
        return EventPage(items=items, total=None if types else run.version, next_cursor=cursor)

    def report(self, run_id: str) -> str:
        from runfold.markdown import markdown_report

        return markdown_report(self._fold(run_id))

    def why(self, run_id: str) -> "Why":
        from runfold.markdown import explain

        return explain(self._fold(run_id))

    def difference(self, a: str, b: str, *, at: str | None, other_at: str | None) -> "Difference":
        from projections.past import At, not_there_yet, parse_at
        from runfold.difference import Side, difference

        moments = [At() if moment is None else parse_at(moment) for moment in (at, other_at)]
        sides = Side(a, moments[0].holds), Side(b, moments[1].holds)
        connection = open_checked(self._settings.data)
        try:
            for side in sides:
                after = 0
                while (page := read_page(connection, after=after, stream=side.run.run_id)).events:
                    side.add(page.events)
                    after = page.scanned_to
                if side.run.version == 0:
                    raise not_there_yet(side.run.run_id)
        finally:
            connection.close()
        return difference(*sides)

    def _connection(self, view: View) -> "sqlite3.Connection":
        """To query another view with, caught up like that of the runs; what is not asked for is not even loaded."""
        views = self._others.get(view.name)
        if views is None:
            views = self._others[view.name] = Views.open(self._settings.data, views=(RUNS, view))
        _refresh(views)
        return views.connection

    def close(self) -> None:
        for views in (self.views, *self._others.values()):
            views.close()

    def _fold(self, run_id: str) -> Run:
        from projections.past import At

        run: Run | None = None
        if self.is_behind:
            with suppress(NotFound, Trimmed):
                run = self._run_at(run_id, At())[0]
        run = get_fold(self.views.connection, run_id) if run is None else run
        if run is None:
            raise NotFound(f"run `{run_id}` is not known", hint="`runfold ps --all` lists the runs", run_id=run_id)
        return run

    def follow(self, run_id: str, *, after: int) -> Iterator[Recorded]:
        connection = open_checked(self._settings.data)
        try:
            check = True
            seen: object = None
            while True:
                changed = data_version(connection)
                if changed == seen:
                    time.sleep(POLL_SECONDS)
                    continue
                seen = changed
                head = bounds(connection).last
                while after < head:
                    page = read_page(connection, after=after, stream=run_id, upto=head)
                    check = check or any(recorded.type in ENDS for recorded in page.events)
                    yield from page.events
                    after = page.scanned_to
                if check and self.rests(run_id, at_most=after):
                    return
                check = False
        finally:
            connection.close()

    def output_start(self, run_id: str, *, tail: int | None) -> int | None:
        try:
            with self._output(run_id).open("rb") as file:
                return 0 if tail is None else last_lines_at(file, tail)
        except FileNotFoundError:
            with closing(open_checked(self._settings.data)) as connection:
                end_of(connection, after=0, stream=run_id)  # It says so where the run was trimmed.
            return None

    def output(self, run_id: str, *, offset: int) -> bytes:
        with self._output(run_id).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)

    def _output(self, run_id: str) -> Path:
        if mirrored_log(self._settings.data) is not None:
            from eventstore.objects.shared_outputs import bring_outputs

            with suppress(Unavailable):
                bring_outputs(self._settings.data, run_id)
        return output_path(self._settings.data, run_id)

    def rests(self, run_id: str, *, at_most: int | None = None) -> bool:
        """Whether the run rests, at an event that is not beyond a position."""
        self.is_behind = self.views.refresh(behind_max=BEHIND_MAX).behind > 0
        run = self.get_run(run_id)
        if run is None:
            return True
        return run.status in RESTING and (at_most is None or run.position <= at_most)


@contextmanager
def open_folder(settings: Settings) -> Generator[FolderRuns, None, None]:
    """The runs of the data folder, caught up with its log. Raises NotFound, naming what to type."""
    if settings.log or mirrored_log(settings.data) is not None:
        bring_mirror(settings)
    check_log(settings.data)
    if not (settings.data / "log.db").exists():
        raise NotFound(
            f"there are no runs in `{settings.data}` yet",
            hint="`runfold run -- COMMAND` records one; `runfold doctor` says where runs are kept",
        )
    runs = FolderRuns(settings, Views.open(settings.data, views=(RUNS,)))
    try:
        runs.is_behind = _refresh(runs.views).behind > 0
        yield runs
    finally:
        runs.close()


def _refresh(views: Views) -> Freshness:
    """Catch up with the log, and say so where that is not done."""
    freshness = views.refresh(behind_max=BEHIND_MAX)
    # What is much a server of the folder folds: two who do it in turn would both be slow.
    if freshness.behind > BEHIND_MAX and running_server(views.data) is None:
        freshness = views.refresh()
    if freshness.stale:
        talk(f"note: what follows may be old: {_why_stale(views, freshness)}")
    return freshness


def _why_stale(views: Views, freshness: Freshness) -> str:
    from projections.engine.health import remedy_of, troubles_of
    from projections.engine.underway import read_underway

    if freshness.behind > BEHIND_MAX:
        return f"{freshness.behind:,} positions of the log are still to be folded, which the server of the folder does"

    troubles = troubles_of(views.checkpoints())
    if troubles:
        return f"{troubles[0].sentence}; {remedy_of(troubles[0], read_underway(views.data))}"
    if not os.access(views.data, os.W_OK):
        return "the data folder cannot be written, so its views stay where they are"
    damage = _damage_after(views.data, freshness.position)
    if damage is not None:
        return f"nothing after position {freshness.position} is in it, for {damage.message}; {damage.hint}"
    return "another process is still folding the log into the views"


def _damage_after(data: Path, position: int) -> Damaged | None:
    """What keeps the next page of the log from being folded, where it is that somebody has altered it."""
    try:
        with closing(open_checked(data)) as connection:
            check_next(connection, after=position, upto=bounds(connection).last)
    except Damaged as damage:
        return damage
    return None

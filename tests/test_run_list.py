"""The list of runs: counted by status, cut by days, with progress in each row, and read from one index."""

import base64
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.sqlite import SqliteLog
from projections.engine.views import Views
from projections.run_list import RunFilter, list_runs
from projections.runs import VIEW as RUNS
from projections.runs import get_run
from runfold.envelope import moment_us, time_text
from runfold.errors import BadRequest
from runfold.events import (
    Event,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepSpec,
    StepStarted,
    TokenUsage,
    UnitApproved,
    UnitFailed,
    UnitsPlanned,
    UnitStarted,
)
from runfold.evolve import evolve
from runfold.progress import Progress, progress
from runfold.state import new_run
from tests.histories import append, write_histories

NEW_YEAR_US = moment_us("2026-01-01")
DAY_US = 86_400_000_000


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(tmp_path)
    yield log
    await log.close()


@pytest.fixture
def views(tmp_path: Path) -> Iterator[Views]:
    views = Views.open(tmp_path)
    yield views
    views.close()


async def test_each_status_is_counted_under_the_same_filters_whichever_are_shown(log: SqliteLog, views: Views) -> None:
    done, broken = RunCompleted(reason_code="EXIT_ZERO"), RunFailed(reason_code="EXIT_NONZERO")
    ends = {"r_1": done, "r_2": done, "r_3": broken, "r_4": None, "r_5": broken}
    for run_id, end in ends.items():
        labels = {"team": "core"} if run_id != "r_5" else {}
        await append(log, run_id, RunQueued(title="a", labels=labels), RunStarted(), *([end] if end else []))
    await append(log, "r_6", RunQueued(title="a", labels={"team": "core"}), tenant="other")
    views.refresh()

    found = list_runs(
        views.connection, RunFilter(tenant="default", label="team=core", status=("failed", "running"), limit=1)
    )

    assert found.by_status == {"completed": 2, "failed": 1, "running": 1}
    assert (found.total, len(found.items)) == (2, 1)


async def test_days_and_times_cut_the_list_alike(log: SqliteLog, views: Views) -> None:
    for day in range(4):
        at_us = NEW_YEAR_US + day * DAY_US
        await append(log, f"r_{day}", RunQueued(title="a"), at_us=at_us)
    views.refresh()

    def found(**times: str) -> list[str]:
        wanted = RunFilter(tenant=None, order="asc", **times)  # type: ignore[arg-type]
        return [item.id for item in list_runs(views.connection, wanted).items]

    assert found(created_after="2026-01-02") == ["r_1", "r_2", "r_3"]
    assert found(created_before="2026-01-02") == ["r_0"]
    assert found(created_after="2026-01-02T00:00:00Z", created_before="2026-01-03T00:00:01+00:00") == ["r_1", "r_2"]
    # As a browser sends it that did not escape the plus.
    assert found(created_after="2026-01-03T01:00:00 01:00") == ["r_2", "r_3"]


@pytest.mark.parametrize("text", ["2026-02-30", "2026-01-01T12:00", "1.1.2026", "", "0000-01-01"])
def test_a_date_that_is_none_is_refused_with_two_that_are(views: Views, text: str) -> None:
    with pytest.raises(BadRequest, match=r"`created_after` is .*2026-01-31, or a time with its zone"):
        list_runs(views.connection, RunFilter(tenant=None, created_after=text))


def test_a_date_alone_is_its_first_moment_in_utc() -> None:
    assert time_text(moment_us("2026-01-31")) == "2026-01-31T00:00:00.000000Z"


OF_THE_PAGE = "SEARCH runs USING INTEGER PRIMARY KEY (rowid=?)"


def reads_of_runs(plan: list[tuple[int, int, int, str]]) -> list[str]:
    return [step[3] for step in plan if " runs " in step[3]]


@pytest.mark.parametrize("sort", ["created_at", "status", "duration", "cost"])
@pytest.mark.parametrize("tenant", ["default", None])
def test_a_list_is_filtered_counted_and_sorted_without_reading_the_folds(
    views: Views, sort: str, tenant: str | None
) -> None:
    asked: list[str] = []
    wanted = RunFilter(tenant=tenant, sort=sort, q="x", label="a=b", workflow="w", status=("failed",))
    views.connection.set_trace_callback(asked.append)
    list_runs(views.connection, wanted)
    views.connection.set_trace_callback(None)

    listing = [text for text in asked if "FROM runs INDEXED" in text]
    plans = [views.connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in listing]

    assert len(listing) == 2
    for plan in plans:
        read = reads_of_runs(plan)
        assert "COVERING INDEX runs_listed" in read[0], plan
        assert read[1:] in ([], [OF_THE_PAGE]), plan


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["created_at", "status", "duration", "cost"])
def test_no_order_of_the_list_sorts_the_runs_and_a_cursor_is_looked_for_in_its_index(
    views: Views, sort: str, order: str
) -> None:
    value: object = "failed" if sort == "status" else 5
    cursor = base64.urlsafe_b64encode(msgspec.json.encode([sort, order, value, "r_1"])).decode().rstrip("=")
    asked: list[str] = []
    views.connection.set_trace_callback(asked.append)
    list_runs(views.connection, RunFilter(tenant="default", sort=sort, order=order, workflow="w", cursor=cursor))
    views.connection.set_trace_callback(None)

    (listing,) = (text for text in asked if "FROM runs INDEXED" in text)
    plan = views.connection.execute(f"EXPLAIN QUERY PLAN {listing}").fetchall()

    sign = ">" if order == "asc" else "<"
    found, *shown = reads_of_runs(plan)
    assert found.startswith("SEARCH runs USING COVERING INDEX")
    assert f"{sign}?" in found or f"{sign}(?,?)" in found
    assert shown == [OF_THE_PAGE]
    assert not [step for step in plan if "TEMP B-TREE" in step[3]], plan


@pytest.mark.parametrize("sort", ["status", "duration", "cost"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_by_what_many_runs_share_show_each_run_once(
    log: SqliteLog, views: Views, sort: str, order: str
) -> None:
    for number in range(7):
        events: list[Event] = [RunQueued(driver="here"), RunStarted(worker="w", pid=1)]
        if number % 2:
            events += [TokenUsage(model="m", cost_micros=number % 3), RunCompleted(reason_code="EXIT_ZERO")]
        await append(log, f"r_{number}", *events)
    views.refresh()
    wanted, shown = RunFilter(tenant="default", sort=sort, order=order, limit=2), list[str]()
    while True:
        page = list_runs(views.connection, wanted)
        shown += [run.id for run in page.items]
        if page.next_cursor is None:
            break
        wanted = replace(wanted, cursor=page.next_cursor)

    whole = list_runs(views.connection, replace(wanted, cursor=None, limit=50))
    assert shown == [run.id for run in whole.items]
    assert sorted(shown) == [f"r_{number}" for number in range(7)]


async def test_the_retries_of_a_run_are_found_without_going_through_the_others(log: SqliteLog, views: Views) -> None:
    await append(log, "r_1", RunQueued(title="a"))
    views.refresh()
    asked: list[str] = []

    views.connection.set_trace_callback(asked.append)
    get_run(views.connection, "r_1", tenant="default")
    views.connection.set_trace_callback(None)

    (query,) = (text for text in asked if " WHERE retry_of = " in text)
    plan = views.connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()

    assert "runs_retried (retry_of=?)" in plan[0][3]


def test_progress_counts_units_where_they_are_planned_and_else_the_steps_of_the_graph() -> None:
    def after(*events: object) -> Progress | None:
        run = new_run("r_1")
        for version, event in enumerate(events, 1):
            run = evolve(run, event, at_us=version)  # type: ignore[arg-type]
        return progress(run)

    steps = (StepSpec(id="a"), StepSpec(id="b"), StepSpec(id="c"))
    begun = (RunQueued(steps=steps), RunStarted(), StepStarted(step="a"), StepCompleted(step="a"))

    assert after(RunQueued(), RunStarted()) is None
    assert after(*begun, StepStarted(step="b"), StepFailed(step="b")) == Progress(
        piece="step", done=1, failed=1, total=3
    )
    assert after(
        *begun,
        UnitsPlanned(total=8, unit_name="frame"),
        UnitStarted(unit="1"),
        UnitApproved(unit="1"),
        UnitFailed(unit="2"),
    ) == Progress(piece="frame", done=1, failed=1, total=8)


@pytest.mark.parametrize("seed", range(3))
async def test_the_counts_that_are_kept_are_those_of_the_rows_also_after_a_run_is_taken_out(
    tmp_path: Path, seed: int
) -> None:
    log = await SqliteLog.open(tmp_path)
    await write_histories(log, random.Random(seed), appends=60)
    await log.close()
    views = Views.open(tmp_path, page_events=7)
    views.refresh()

    def counted() -> dict[tuple[str, ...], int]:
        rows = views.connection.execute("SELECT tenant, workflow, status, runs FROM run_counts").fetchall()
        return {tuple(row[:3]): row[3] for row in rows}

    def found() -> dict[tuple[str, ...], int]:
        query = "SELECT tenant, COALESCE(workflow, ''), status, count(*) FROM runs GROUP BY 1, 2, 3"
        return {tuple(row[:3]): row[3] for row in views.connection.execute(query).fetchall()}

    before = counted()
    assert before == found()
    (run_id,) = views.connection.execute("SELECT run_id FROM runs LIMIT 1").fetchone()
    RUNS.drop_run(views.connection, run_id)

    assert counted() == found() != before
    views.close()

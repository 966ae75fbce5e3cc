"""The list of runs: counted by status, cut by days, with progress in each row, and read from one index."""

import base64
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.sqlite import SqliteLog
from projections.engine.views import Views
from projections.run_list import RunFilter, list_runs
from projections.runs import VIEW as RUNS
from projections.runs import find_run_ids, get_run
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
from runfold.snapshot import Snapshot
from runfold.state import new_run
from tests.histories import append, write_courses, write_histories

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


def oracle_key(item: Snapshot, sort: str) -> Any:
    if sort == "cost":
        return -1 if item.stats.cost_usd is None else round(item.stats.cost_usd * 1_000_000)
    return {"created_at": item.created_at, "status": item.status}[sort]


@pytest.fixture
async def listed(log: SqliteLog, tmp_path: Path) -> Any:
    await write_courses(log, random.Random(8), appends=150, runs=40)
    views = Views.open(tmp_path)
    views.refresh()
    yield views
    views.close()


@pytest.mark.parametrize("sort", ["created_at", "status", "duration", "cost"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_by_cursor_and_by_offset_hold_every_run_once_in_order(listed: Views, sort: str, order: str) -> None:
    whole = list_runs(listed.connection, RunFilter(tenant=None, sort=sort, order=order, limit=200))
    by_cursor, by_offset, cursor = list[str](), list[str](), None

    for offset in range(0, whole.total, 7):
        page = list_runs(listed.connection, RunFilter(tenant=None, sort=sort, order=order, limit=7, cursor=cursor))
        cursor = page.next_cursor
        by_cursor += [item.id for item in page.items]
        page = list_runs(listed.connection, RunFilter(tenant=None, sort=sort, order=order, limit=7, offset=offset))
        by_offset += [item.id for item in page.items]

    ids = [item.id for item in whole.items]
    assert cursor is None
    assert by_cursor == by_offset == ids
    assert len(set(ids)) == whole.total == 40 or whole.total < 40
    if sort != "duration":
        keys = [(oracle_key(item, sort), item.id) for item in whole.items]
        assert keys == sorted(keys, reverse=order == "desc")
    else:
        lengths = [-1 if item.duration_ms is None else item.duration_ms for item in whole.items]
        assert lengths == sorted(lengths, reverse=order == "desc")


async def test_filters_find_what_a_plain_search_finds(listed: Views) -> None:
    everything = list_runs(listed.connection, RunFilter(tenant=None, limit=200)).items
    middle = sorted(str(item.created_at) for item in everything)[len(everything) // 2]
    questions: dict[RunFilter, Callable[[Any], bool]] = {
        RunFilter(tenant="other", limit=200): lambda item: item.tenant == "other",
        RunFilter(tenant=None, status=("running", "failed"), limit=200): lambda item: (
            item.status in ("running", "failed")
        ),
        RunFilter(tenant=None, workflow="build", limit=200): lambda item: item.workflow == "build",
        RunFilter(tenant=None, label="team", limit=200): lambda item: "team" in item.labels,
        RunFilter(tenant=None, label="50%=core", limit=200): lambda item: item.labels.get("50%") == "core",
        RunFilter(tenant=None, created_after=middle, limit=200): lambda item: item.created_at >= middle,
        RunFilter(tenant=None, created_before=middle, limit=200): lambda item: item.created_at < middle,
        RunFilter(tenant=None, q="r_01", limit=200): lambda item: item.id.startswith("r_01"),
        RunFilter(tenant=None, q="RUN 3", limit=200): lambda item: "run 3" in item.title,
        RunFilter(tenant=None, q="x\\y", limit=200): lambda item: "x\\y" in item.labels.values(),
        RunFilter(tenant=None, q="a_b", limit=200): lambda item: "a_b" in item.labels,
    }

    for question, matches in questions.items():
        found = list_runs(listed.connection, question)

        expected = {item.id for item in everything if matches(item)}
        assert {item.id for item in found.items} == expected, question
        assert found.total == len(expected) > 0, question


async def test_percent_and_underscore_in_a_search_are_text(log: SqliteLog, tmp_path: Path) -> None:
    for run_id, title in (("r_1", "100% done"), ("r_2", "100 done"), ("r_3", "a_b"), ("r_4", "axb"), ("r_5", "c\\d")):
        await append(log, run_id, RunQueued(title=title, labels={"key": title}))
    views = Views.open(tmp_path)
    views.refresh()

    def found(q: str) -> set[str]:
        return {item.id for item in list_runs(views.connection, RunFilter(tenant=None, q=q)).items}

    assert found("100%") == {"r_1"}
    assert found("a_b") == {"r_3"}
    assert found("c\\d") == {"r_5"}
    assert found("%") == {"r_1"}
    views.close()


async def test_a_foreign_tenants_run_looks_like_an_unknown_one(listed: Views) -> None:
    assert get_run(listed.connection, "r_001", tenant="other") is not None
    assert get_run(listed.connection, "r_001", tenant="default") is None
    assert find_run_ids(listed.connection, "r_001", tenant="default", limit=5) == []
    assert find_run_ids(listed.connection, "r_001", tenant="other", limit=5) == ["r_001"]
    assert find_run_ids(listed.connection, "r%", tenant=None, limit=5) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sort", "title"),
        ("order", "up"),
        ("limit", 0),
        ("limit", 201),
        ("offset", -1),
        ("status", ("done",)),
        ("label", "=x"),
        ("created_after", "yesterday"),
        ("created_before", "2026-01-01T12:00"),
        ("cursor", "nonsense"),
        ("cursor", "ä"),
        ("cursor", "W10"),
        ("q", "\udc80"),
    ],
)
async def test_a_value_that_is_not_allowed_is_refused_by_name(listed: Views, name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=f"`{name}` is") as refusal:
        list_runs(listed.connection, replace(RunFilter(tenant=None), **{name: value}))

    assert "allowed" in refusal.value.message


async def test_a_cursor_of_another_sort_is_refused(listed: Views) -> None:
    cursor = list_runs(listed.connection, RunFilter(tenant=None, limit=1)).next_cursor

    with pytest.raises(BadRequest, match="`cursor` is"):
        list_runs(listed.connection, RunFilter(tenant=None, sort="cost", cursor=cursor))

"""The views of a run's inside and of all runs together: each equals a naive recount of the log."""

import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.sqlite import SqliteLog
from projections.artifacts import list_artifacts
from projections.catalogue import VIEWS
from projections.engine.views import Views
from projections.history import run_history
from projections.spans import overview, timeline
from projections.stats import ALL_HOURS, bucket_of, percentile, queue, run_stats
from projections.steps import get_step, list_steps
from projections.usage import DAY_US, GROUPS, CostFilter, costs
from runfold.envelope import SYSTEM_STREAM, Recorded
from runfold.events import ArtifactStored, Event, RunQueued, TokenUsage
from runfold.evolve import fold
from runfold.state import RESTING, Run, new_run
from tests.histories import all_events, new_event, write_histories
from tests.served import ADMIN, OPERATOR, OTHER, VIEWER, serving

OF_ALL_TENANTS = ("/api/admin/runs", "/api/admin/runs/stats", "/api/admin/queue", "/api/admin/views",
                  "/api/admin/costs", "/metrics")  # fmt: skip


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(tmp_path)
    yield log
    await log.close()


def folded(events: list[Recorded]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for recorded in events:
        if recorded.run_id != SYSTEM_STREAM:
            runs[recorded.run_id] = fold(runs.get(recorded.run_id) or new_run(recorded.run_id), [recorded])
    return runs


@pytest.mark.parametrize("seed", range(3))
async def test_every_view_is_the_same_however_the_log_is_cut_into_pages(
    log: SqliteLog, tmp_path: Path, seed: int
) -> None:
    await write_histories(log, random.Random(seed), appends=50, redactions=seed == 2)
    found: list[dict[str, list[Any]]] = []

    for page_events in (1, 7, 500):
        for path in tmp_path.glob("views.*"):
            path.unlink()
        views = Views.open(tmp_path, page_events=page_events)
        assert not views.refresh().stale
        tables = [table for view in VIEWS for table in view.tables]
        found.append({table: sorted(views.connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
                      for table in tables})  # fmt: skip
        views.close()

    assert found[0] == found[1] == found[2]
    assert all(found[0].values())


@pytest.mark.parametrize("by", GROUPS)
@pytest.mark.parametrize("tenant", [None, "other"])
async def test_costs_are_the_sums_of_what_was_reported(
    log: SqliteLog, tmp_path: Path, by: str, tenant: str | None
) -> None:
    await write_histories(log, random.Random(3), appends=120)
    events = all_events(tmp_path)
    runs: dict[str, Run] = {}
    tokens, micros, unpriced = defaultdict[Any, int](int), defaultdict[Any, int](int), defaultdict[Any, int](int)
    for recorded in events:
        if recorded.run_id == SYSTEM_STREAM:
            continue
        before = runs.get(recorded.run_id) or new_run(recorded.run_id)
        runs[recorded.run_id] = after = fold(before, [recorded])
        event = recorded.event()
        if isinstance(event, TokenUsage) and tenant in (None, recorded.tenant):
            # The run's own fold says to which step it added them.
            steps = [name for name, state in after.step_states.items()
                     if before.step_states.get(name) is None or before.step_states[name].tokens != state.tokens
                     or before.step_states[name].cost_micros != state.cost_micros]  # fmt: skip
            keys = {"model": event.model, "provider": event.provider, "run": recorded.run_id,
                    "tenant": recorded.tenant, "workflow": after.workflow, "step": steps[0] if steps else None,
                    "day": recorded.recorded_at_us // DAY_US}  # fmt: skip
            tokens[keys[by]] += event.input_tokens + event.output_tokens
            micros[keys[by]] += event.cost_micros or 0
            unpriced[keys[by]] += event.cost_micros is None and event.input_tokens + event.output_tokens > 0
    views = Views.open(tmp_path)
    views.refresh()

    found = costs(views.connection, CostFilter(tenant=tenant, by=by, limit=200))

    if by == "day":
        assert [item.input_tokens + item.output_tokens for item in found.items] == [
            tokens[day] for day in sorted(tokens, reverse=True)
        ]
    else:
        assert {item.key: item.input_tokens + item.output_tokens for item in found.items} == tokens
        assert {item.key: round((item.cost_usd or 0) * 1e6) for item in found.items} == micros
        assert {item.key: item.unpriced for item in found.items} == unpriced
    assert found.sum.unpriced == sum(unpriced.values())
    assert (found.total, found.next_cursor) == (len(tokens), None)
    views.close()


async def test_a_price_that_nobody_knows_stays_unknown(log: SqliteLog, tmp_path: Path) -> None:
    usage = [TokenUsage(model="m", input_tokens=5), TokenUsage(model="n", input_tokens=5, cost_micros=0)]
    events: list[Event] = [RunQueued(), *usage]
    await log.append("r_a", [new_event(it, at_us=1, tenant="default") for it in events], expected=0)
    views = Views.open(tmp_path)
    views.refresh()

    found = costs(views.connection, CostFilter(tenant="default"))

    assert {item.key: (item.cost_usd, item.unpriced) for item in found.items} == {"m": (None, 1), "n": (0.0, 0)}
    views.close()


@pytest.mark.parametrize("seed", range(3))
async def test_the_counters_are_those_of_the_runs(log: SqliteLog, tmp_path: Path, seed: int) -> None:
    await write_histories(log, random.Random(seed), appends=120, runs=40)
    outcomes: dict[str, str | None] = {}
    for recorded in all_events(tmp_path):
        if recorded.type in {f"run_{status}" for status in RESTING}:
            outcomes[recorded.run_id] = recorded.type.removeprefix("run_")
        elif recorded.type == "run_resumed":
            outcomes[recorded.run_id] = None
    runs = folded(all_events(tmp_path))
    views = Views.open(tmp_path, page_events=11)
    views.refresh()

    stats = run_stats(views.connection, tenant=None, since_us=0)
    other = run_stats(views.connection, tenant="other", since_us=0)

    assert stats.created == len(runs)
    assert other.created == len([run for run in runs.values() if run.tenant == "other"])
    assert stats.by_status == dict(sorted(Counter(filter(None, outcomes.values())).items()))
    kept = dict(views.connection.execute(
        "SELECT name, sum(value) FROM stats WHERE hour = ? GROUP BY 1", (ALL_HOURS,)).fetchall())  # fmt: skip
    counted = dict(views.connection.execute(
        "SELECT name, sum(value) FROM stats WHERE hour >= 0 GROUP BY 1").fetchall())  # fmt: skip
    assert kept == counted
    active = Counter(run.status for run in runs.values() if run.status and run.status not in RESTING)
    assert queue(views.connection, tenant=None).active == dict(sorted(active.items()))
    views.close()


def test_a_percentile_is_right_to_a_twentieth() -> None:
    chance = random.Random(4)
    durations = sorted(int(chance.lognormvariate(8, 2)) for _ in range(5_000))

    for share in (0.5, 0.95):
        exact = durations[int(len(durations) * share)]
        found = percentile(dict(Counter(map(bucket_of, durations))), share)

        assert found is not None
        assert abs(found - exact) <= exact * 0.05 + 1
    assert percentile({}, 0.5) is None


async def test_artifacts_are_listed_once_by_their_newest(log: SqliteLog, tmp_path: Path) -> None:
    await write_histories(log, random.Random(5), appends=80, runs=4)
    newest: dict[str, tuple[int, str | None]] = {}
    for recorded in all_events(tmp_path):
        event = recorded.event()
        if isinstance(event, ArtifactStored) and recorded.run_id == "r_001":
            newest[event.artifact_id] = (recorded.position, event.step)
    views = Views.open(tmp_path)
    views.refresh()

    whole = list_artifacts(views.connection, "r_001", tenant="other")
    first = list_artifacts(views.connection, "r_001", tenant="other", limit=1)
    rest = list_artifacts(views.connection, "r_001", tenant="other", after=int(first.next_cursor or 0))
    of_step = list_artifacts(views.connection, "r_001", tenant="other", step="a")

    assert [item.position for item in whole.items] == sorted(position for position, _ in newest.values())
    assert first.items + rest.items == whole.items
    assert {item.artifact_id for item in of_step.items} == {name for name, (_, step) in newest.items() if step == "a"}
    assert list_artifacts(views.connection, "r_001", tenant="default").total == 0
    views.close()


async def test_what_is_inside_a_run_is_asked_for_as_it_was_at_a_moment(log: SqliteLog, tmp_path: Path) -> None:
    views, chance = Views.open(tmp_path), random.Random(11)

    def inside(at: int | None = None) -> list[Any]:
        asked: dict[str, Any] = {"tenant": "default", "at": at}
        connection = views.connection
        questions = timeline, overview, list_artifacts, run_history
        return [question(connection, "r_000", **asked) for question in questions]

    then: dict[int, list[Any]] = {}
    for _ in range(4):
        await write_histories(log, chance, appends=30, runs=2)
        views.refresh()
        then[(await log.bounds()).last] = inside()

    for position, was in then.items():
        assert inside(position) == was
    assert inside()[0] != then[min(then)][0]
    views.close()


async def test_steps_are_those_of_the_runs_own_fold(log: SqliteLog, tmp_path: Path) -> None:
    await write_histories(log, random.Random(7), appends=100, runs=4)
    runs = folded(all_events(tmp_path))
    views = Views.open(tmp_path)
    views.refresh()

    for run_id, run in runs.items():
        found = list_steps(views.connection, run_id, tenant=None)
        failed = list_steps(views.connection, run_id, tenant=None, status=("failed",))

        assert found is not None
        assert failed is not None
        assert {item.id: item.status for item in found.items} == {it: s.status for it, s in run.step_states.items()}
        assert {item.id for item in failed.items} == {it for it, s in run.step_states.items() if s.status == "failed"}
        for name, state in run.step_states.items():
            detail = get_step(views.connection, run_id, name, tenant=None)
            assert detail is not None
            assert (detail.output, detail.turns, detail.tokens) == (state.output, state.turns, state.tokens)
    assert list_steps(views.connection, "r_001", tenant="default") is None
    views.close()


@pytest.mark.parametrize("path", OF_ALL_TENANTS)
async def test_what_is_of_all_tenants_is_for_an_admin_of_all_tenants(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as served:
        await served.open_run(title="theirs", token=OTHER)

        answers = [(await served.ask("GET", path, token=token)).status for token in (VIEWER, OPERATOR, OTHER, ADMIN)]
        text = await (await served.ask("GET", path)).text()

    assert answers == [403, 403, 403, 200]
    if path == "/api/admin/runs":
        assert "theirs" in text
    if path == "/metrics":
        assert "runfold_runs_created_total 1\n" in text
        assert 'runfold_runs_active{status="running"} 1\n' in text


async def test_the_inside_of_a_run_is_answered_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        steps = [{"id": "a"}, {"id": "b", "needs": ["a"]}]
        run_id = await served.open_run(title="mine", steps=steps)
        await served.report(
            run_id,
            {"type": "step_started", "data": {"step": "a"}},
            {"type": "token_usage", "data": {"model": "m", "input_tokens": 7, "cost_micros": 3_000_000}},
            {"type": "step_completed", "data": {"step": "a", "output": {"file": "x"}}},
        )

        listed = await (await served.ask("GET", f"/api/runs/{run_id}/steps?status=pending")).json()
        step = await (await served.ask("GET", f"/api/runs/{run_id}/steps/a")).json()
        missing = await served.ask("GET", f"/api/runs/{run_id}/steps/z")
        spans = await (await served.ask("GET", f"/api/runs/{run_id}/timeline")).json()
        began = await (await served.ask("GET", f"/api/runs/{run_id}/timeline?at=v3")).json()
        whole = await (await served.ask("GET", f"/api/runs/{run_id}/timeline/overview")).json()
        odd = await served.ask("GET", f"/api/runs/{run_id}/timeline?since=yesterday")
        cost = await (await served.ask("GET", "/api/costs?by=step")).json()
        bad = await served.ask("GET", "/api/costs?since=yesterday")

    assert [(item["id"], item["needs"]) for item in listed["items"]] == [("b", ["a"])]
    assert (step["status"], step["output"], step["tokens"], step["cost_usd"]) == ("completed", {"file": "x"}, 7, 3.0)
    assert [(span["kind"], span["key"], span["status"]) for span in spans["items"]] == [("step", "a", "completed")]
    assert [(item["key"], item["cost_usd"]) for item in cost["items"]] == [("a", 3.0)]
    assert [span["status"] for span in began["items"]] == ["running"]
    assert [(lane["kind"], lane["spans"]) for lane in whole["lanes"]] == [("step", 1)]
    assert (missing.status, bad.status, odd.status) == (404, 400, 400)


async def test_steps_are_shown_as_they_were_at_an_event(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await served.open_run(steps=[{"id": "a"}, {"id": "b", "needs": ["a"]}])
        await served.report(
            run_id,
            {"type": "step_started", "data": {"step": "a"}},
            {"type": "step_completed", "data": {"step": "a"}},
        )
        path = f"/api/runs/{run_id}/steps"

        then = await (await served.ask("GET", f"{path}?at=v3")).json()
        now = await (await served.ask("GET", path)).json()
        one = await (await served.ask("GET", f"{path}/a?at=v3")).json()
        missing = await served.ask("GET", f"{path}/z?at=v3")
        foreign = await served.ask("GET", f"{path}?at=v3", token=OTHER)

    assert [item["status"] for item in then["items"]] == ["running", "pending"]
    assert [item["status"] for item in now["items"]] == ["completed", "pending"]
    assert one["status"] == "running"
    assert (missing.status, foreign.status) == (404, 404)

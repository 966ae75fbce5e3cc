"""Runs read over HTTP: as they are, as they were, page by page, and never older than the reader has seen."""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import api.asking
from eventstore.contract import Bounds
from eventstore.log_file import open_reader
from projections.past import At, run_at
from runfold.snapshot import snapshot
from tests.served import OTHER, Served, note, serving
from tests.working import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("each_log")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def test_a_run_is_shown_as_it_was_at_a_position_and_at_a_time(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.control(run_id, "pause")
    paused = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The log's clock has to have moved on, or one time would name both moments.
        while (await _last_recorded_at(served, run_id)) >= datetime.now(UTC):
            await asyncio.sleep(0)
    between = datetime.now(UTC).isoformat()
    await served.control(run_id, "resume")
    await served.control(run_id, "complete")

    for at in (str(paused["position"]), f"v{paused['version']}", between):
        for path in ("", "/status"):
            response = await served.ask("GET", f"/api/runs/{run_id}{path}", params={"at": at})
            assert await response.json() == paused, at
    before = await served.ask("GET", f"/api/runs/{run_id}?at=0")
    beyond = await served.ask("GET", f"/api/runs/{run_id}?at={(await served.log.bounds()).last + 1}")
    later = await served.ask("GET", f"/api/runs/{run_id}?at=v{paused['version'] + 3}")
    nonsense = await served.ask("GET", f"/api/runs/{run_id}?at=yesterday")
    foreign = await served.ask("GET", f"/api/runs/{run_id}?at={paused['position']}", token=OTHER)

    assert [response.status for response in (before, beyond, later, nonsense, foreign)] == [404, 410, 410, 400, 404]


async def _last_recorded_at(served: Served, run_id: str) -> datetime:
    last = await served.log.last(run_id)
    assert last is not None
    return datetime.fromtimestamp(last.recorded_at_us / 1e6 + 1e-5, UTC)


async def test_the_terminal_and_the_api_see_the_same_past(served: Served, tmp_path: Path) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, *[note(number) for number in range(50)])
    await served.control(run_id, "complete")
    reader = open_reader(tmp_path)

    for position in range(1, (await served.log.bounds()).last + 1):
        run, last = run_at(reader, run_id, At(position=position))
        answer = await (await served.ask("GET", f"/api/runs/{run_id}?at={position}")).json()
        assert msgspec.json.decode(msgspec.json.encode(snapshot(run, position=last))) == answer
    reader.close()


async def test_a_read_waits_for_the_position_that_its_caller_has_seen(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.open_run(title="a")
    head = (await served.log.bounds()).last
    reads = ("/api/runs", f"/api/runs/{run_id}", f"/api/runs/{run_id}/history")
    monkeypatch.setattr(api.asking, "MIN_POSITION_SECONDS", PATIENCE_SECONDS)
    waiting = [asyncio.create_task(served.ask("GET", f"{path}?min_position={head + 1}")) for path in reads]
    await served.ask("GET", "/api/runs")

    assert not any(task.done() for task in waiting)
    await served.report(run_id, note(1))
    fresh = [await (await task).json() for task in waiting]
    monkeypatch.setattr(api.asking, "MIN_POSITION_SECONDS", 0.01)
    stale = [await served.ask("GET", f"{path}?min_position={head + 9}") for path in reads]

    assert all("stale" not in answer for answer in fresh)
    assert fresh[1]["position"] == head + 1
    for response in stale:
        answer = await response.json()
        assert (answer["stale"], answer["views_position"]) == (True, head + 1)
        assert response.headers["Runfold-Stale"] == "true"


async def test_a_read_that_begins_to_wait_sleeps_through_nothing_that_is_written_just_then(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.open_run(title="a")
    bounds, head = served.log.bounds, (await served.log.bounds()).last

    async def before_it_was_written() -> Bounds:
        found = await bounds()
        monkeypatch.setattr(served.log, "bounds", bounds)
        assert (await served.report(run_id, note(1))).status == 200
        return found

    monkeypatch.setattr(api.asking, "MIN_POSITION_SECONDS", 2 * PATIENCE_SECONDS)
    monkeypatch.setattr(served.log, "bounds", before_it_was_written)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await (await served.ask("GET", f"/api/runs?min_position={head + 1}")).json()

    assert "stale" not in answer


@pytest.mark.slow
async def test_lists_that_fall_behind_say_so_in_the_answer_and_one_run_comes_from_the_log(
    served: Served, tmp_path: Path
) -> None:
    run_id = await served.open_run(title="a")
    before = await (await served.ask("GET", "/api/runs")).json()
    with (tmp_path / "views.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await served.report(run_id, note(1))
        behind = await (await served.ask("GET", "/api/runs")).json()
        one = await (await served.ask("GET", f"/api/runs/{run_id}")).json()
    current = await (await served.ask("GET", "/api/runs")).json()

    (old,), (new,) = before["items"], current["items"]
    assert behind == {**before, "stale": True, "views_position": old["position"]}
    assert (one["version"], "stale" in one) == (old["version"] + 1, False)
    assert (new["version"], "stale" in current) == (old["version"] + 1, False)


async def test_a_snapshot_that_did_not_change_is_not_sent_again(served: Served) -> None:
    run_id = await served.open_run(title="a")
    first = await served.ask("GET", f"/api/runs/{run_id}")
    tag = {"If-None-Match": first.headers["ETag"]}

    same = await served.ask("GET", f"/api/runs/{run_id}", headers=tag)
    await served.report(run_id, note(1))
    changed = await served.ask("GET", f"/api/runs/{run_id}", headers=tag)

    assert (same.status, await same.read(), changed.status) == (304, b"", 200)


async def test_pages_of_events_join_without_gap_or_repeat(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, *[note(number) for number in range(25)])

    seen: list[int] = []
    page: dict[str, Any] = {}
    after: str | None = "0"
    while after is not None:
        page = await (await served.ask("GET", f"/api/runs/{run_id}/events?limit=7&after={after}")).json()
        seen += [event["version"] for event in page["items"]]
        after = page["next_cursor"]

    assert seen == list(range(1, page["total"] + 1))


async def test_events_are_read_on_from_the_number_of_one_of_the_run(served: Served) -> None:
    await served.open_run(title="another")
    run_id = await served.open_run(title="a")
    await served.report(run_id, *[note(number) for number in range(20)])

    async def versions(after: str) -> list[int]:
        page = await (await served.ask("GET", f"/api/runs/{run_id}/events?limit=3&after={after}")).json()
        return [event["version"] for event in page["items"]]

    assert await versions("v0") == [1, 2, 3]
    assert await versions("v7") == [8, 9, 10]
    assert await versions("v22") == await versions("v900") == []
    assert (await served.ask("GET", f"/api/runs/{run_id}/events?after=v-1")).status == 400


async def test_a_run_is_looked_at_without_folding_its_events_anew(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.open_run(title="a")
    folded: list[str] = []
    state = served.ledger.state

    async def recorded(name: str, **kwargs: Any) -> Any:
        folded.append(name)
        return await state(name, **kwargs)

    monkeypatch.setattr(served.ledger, "state", recorded)

    for path in ("", "/events", "/events?after=v1", "/history", "/steps", "/timeline", "/artifacts"):
        assert (await served.ask("GET", f"/api/runs/{run_id}{path}")).status == 200

    assert folded == []


async def test_events_are_filtered_by_type_and_class(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(
        run_id, note(1), {"type": "file_read", "data": {"path": "a"}}, {"type": "token_usage", "data": {}}
    )

    async def types(query: str) -> list[str]:
        page = await (await served.ask("GET", f"/api/runs/{run_id}/events?{query}")).json()
        return [event["type"] for event in page["items"]]

    assert await types("type=file_read") == ["file_read"]
    assert await types("type=file_read,message") == ["message", "file_read"]
    assert await types("class=activity&class=usage") == ["message", "file_read", "token_usage"]


async def test_the_list_is_newest_first_and_filtered(served: Served) -> None:
    for number in range(3):
        await served.open_run(title=f"run {number}", workflow="even" if number % 2 == 0 else "odd")

    everything = await (await served.ask("GET", "/api/runs")).json()
    even = await (await served.ask("GET", "/api/runs?workflow=even&status=running,paused&limit=1")).json()

    assert [run["title"] for run in everything["items"]] == ["run 2", "run 1", "run 0"]
    assert (even["total"], len(even["items"])) == (2, 1)
    assert even["next_cursor"]

"""What each step wrote, told apart, while it is at work, after it, and as it was."""

from pathlib import Path

import pytest

from tests.served import Served, serving
from tests.working import Working, working

pytestmark = pytest.mark.slow
WAITS = "until [ -e go ]; do sleep 0.02; done"
STEPS = f"""
[workflow.w]
[[workflow.w.steps]]
id = "wood"
command = ["sh", "-c", "echo oak; {WAITS}; echo ash"]
[[workflow.w.steps]]
id = "stone"
command = ["sh", "-c", "echo slate; {WAITS}"]
[[workflow.w.steps]]
id = "glass"
needs = ["wood"]
attempts_max = 2
backoff_seconds = 0.05
command = ["sh", "-c", "echo try $RUNFOLD_ATTEMPT; [ $RUNFOLD_ATTEMPT = 2 ]"]
"""


async def said(served: Served, run_id: str, query: str, **headers: str) -> tuple[int, str]:
    answer = await served.ask("GET", f"/api/runs/{run_id}/output?{query}", headers=headers)
    return answer.status, await answer.text()


async def wait_output(workers: Working, run_id: str, *texts: str) -> int:
    """The position at which the last of them was told."""
    positions: list[int] = []
    for text in texts:
        found = await workers.wait(
            run_id, lambda it, text=text: it.type == "subprocess_output" and text in it.data.decode()  # type: ignore[misc]
        )  # fmt: skip
        positions.append(found.position)
    return max(positions)


async def test_what_each_step_writes_is_told_apart_while_it_is_at_work_and_after(tmp_path: Path) -> None:
    async with working(tmp_path, STEPS) as workers, serving(tmp_path / "data") as served:
        run_id = await workers.queue("w")
        then = await wait_output(workers, run_id, "oak", "slate")

        at_work = [await said(served, run_id, f"step={step}") for step in ("wood", "stone")]
        nothing_new = await said(served, run_id, "step=wood&after=4")
        (tmp_path / "go").touch()
        await workers.wait_rest(run_id)
        since = await said(served, run_id, "step=wood&after=4")
        whole = [await said(served, run_id, f"step={step}") for step in ("wood", "stone", "glass")]
        tries = [await said(served, run_id, f"step=glass&attempt={number}") for number in (1, 2)]
        past = [await said(served, run_id, f"step={step}&at={then}") for step in ("wood", "stone")]

    assert at_work == [(200, "oak\n"), (200, "slate\n")]
    assert nothing_new == (204, "")
    assert since == (200, "ash\n")
    assert whole == [(200, "oak\nash\n"), (200, "slate\n"), (200, "try 1\ntry 2\n")]
    assert tries == [(200, "try 1\n"), (200, "try 2\n")]
    assert past == at_work


async def test_a_steps_output_is_asked_for_in_ranges_and_by_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    async with working(tmp_path, STEPS) as workers, serving(tmp_path / "data") as served:
        run_id = await workers.queue("w")
        await workers.wait_rest(run_id)

        part = await served.ask("GET", f"/api/runs/{run_id}/output?step=glass", headers={"Range": "bytes=4-9"})
        last = await said(served, run_id, "step=glass", Range="bytes=-2")
        beyond = await said(served, run_id, "step=glass", Range="bytes=12-")
        tail = await served.ask("GET", f"/api/runs/{run_id}/output?step=glass&tail=1")

        assert (part.status, await part.text(), part.headers["Content-Range"]) == (206, "1\ntry ", "bytes 4-9/12")
        assert last == (206, "2\n")
        assert beyond[0] == 416
        assert (await tail.text(), tail.headers["Runfold-Offset"]) == ("try 2\n", "6")


async def test_the_whole_output_as_it_was_holds_only_what_steps_had_ended_with(tmp_path: Path) -> None:
    async with working(tmp_path, STEPS) as workers, serving(tmp_path / "data") as served:
        run_id = await workers.queue("w")
        then = await wait_output(workers, run_id, "oak", "slate")
        (tmp_path / "go").touch()
        await workers.wait_rest(run_id)

        assert await said(served, run_id, f"at={then}") == (200, "")
        assert len((await said(served, run_id, "tail=100"))[1].splitlines()) == 5


async def test_a_step_that_is_not_known_or_had_no_command_is_said_to_be_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await served.open_run(steps=[{"id": "by hand"}])
        await served.report(run_id, {"type": "step_started", "data": {"step": "by hand"}})

        unknown = await said(served, run_id, "step=other")
        by_hand = await said(served, run_id, "step=by+hand")
        of_none = await said(served, run_id, "attempt=2")

    assert unknown[0] == by_hand[0] == 404
    assert "has no step `other`" in unknown[1]
    assert "step `by hand` had no command of its own" in by_hand[1]
    assert of_none[0] == 400

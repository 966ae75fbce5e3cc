"""Where two runs part, and what each then made, took and cost; told the same on every surface."""

import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runfold import commands as c
from runfold import events as e
from runfold.decide import decide
from runfold.difference import Difference, Side, difference
from runfold.envelope import Recorded
from runfold.evolve import evolve
from runfold.state import new_run
from tests.given import done, graph, observe, reported
from tests.served import OTHER, note, serving
from tests.terminal import record, runfold

OPEN = reported(title="t")


def side(*commands: Any, run_id: str = "r_x", seconds: int = 1) -> Side:
    """A run through these commands, some seconds apart, as a log would give it back."""
    run, found = new_run(run_id), Side(run_id)
    for number, command in enumerate(commands):
        at_us = number * seconds * 1_000_000
        for event in decide(run, command, at_us):
            run = evolve(run, event, at_us=at_us)
            found.add([_recorded(run_id, run.version, event, at_us)])
    return found


def _recorded(run_id: str, version: int, event: Any, at_us: int) -> Recorded:
    return Recorded(
        position=version,
        run_id=run_id,
        version=version,
        id=str(uuid.uuid4()),
        schema=1,
        type=e.event_type(event),
        at_us=at_us,
        recorded_at_us=at_us,
        tenant="default",
        actor="user:a",
        cause=None,
        command=None,
        sent=None,
        correlation="",
        hash=b"\0" * 32,
        data=e.encode_data(event),
    )


def wrote(path: str, **more: Any) -> c.Observe:
    return observe(e.FileWritten(path=path, **more))


def test_runs_that_did_the_same_are_the_same_whenever_and_however_fast() -> None:
    story = (OPEN, wrote("a.py", bytes=3), observe(e.CommandExecuted(command="make", exit_code=0)), c.Complete())

    found = difference(side(*story, run_id="r_a"), side(*story, run_id="r_b", seconds=9))

    assert (found.divergence, found.steps, found.files) == (None, (), ())
    assert found.reason.a == found.reason.b
    assert found.duration_ms.change == 24_000


def test_the_first_deed_that_differs_is_named_on_both_sides() -> None:
    a = side(OPEN, wrote("a.py"), observe(e.CommandExecuted(command="make", exit_code=0)), c.Complete())
    b = side(OPEN, wrote("a.py"), observe(e.CommandExecuted(command="make", exit_code=2)), c.Fail(reason_code="SYS_X"))

    found = difference(a, b)

    assert found.divergence is not None
    assert found.divergence.after == 3
    assert [it.text for it in (found.divergence.a, found.divergence.b) if it] == [
        "command_executed command=make exit_code=0 status=completed",
        "command_executed command=make exit_code=2 status=completed",
    ]
    assert (found.reason.a, found.reason.b) == ("REPORTED", "SYS_X")


def test_a_run_that_goes_on_where_the_other_ends_parts_there() -> None:
    found = difference(side(OPEN), side(OPEN, wrote("a.py")))

    assert found.divergence is not None
    assert found.divergence.a is None
    assert found.divergence.b is not None
    assert found.divergence.b.text == "file_written path=a.py"


def test_files_and_steps_that_differ_are_listed_and_no_others() -> None:
    opened = reported(steps=graph("s", "t: s"))
    a = side(opened, *done("s", "t"), wrote("same.py", bytes=1), wrote("a.py"), wrote("c.py", sha256="1" * 64))
    b = side(opened, *done("s"), wrote("same.py", bytes=1), wrote("b.py"), wrote("c.py", sha256="2" * 64))

    found = difference(a, b)

    assert [(it.path, it.change) for it in found.files] == [
        ("a.py", "only_a"),
        ("b.py", "only_b"),
        ("c.py", "content"),
    ]
    assert [(it.step, it.status.a, it.status.b) for it in found.steps] == [("t", "completed", "pending")]


def test_a_price_that_one_does_not_know_is_no_difference_of_cost() -> None:
    priced = observe(e.TokenUsage(input_tokens=5, cost_micros=250_000))
    found = difference(side(OPEN, priced), side(OPEN, observe(e.TokenUsage(input_tokens=7))))

    assert (found.cost_usd.a, found.cost_usd.b, found.cost_usd.change) == (0.25, None, None)
    assert found.tokens.change == 2


DEEDS = st.lists(st.sampled_from([wrote("a"), wrote("b"), observe(e.Message(text="m"))]), max_size=6)


@given(a=DEEDS, b=DEEDS)
def test_runs_part_at_their_longest_common_beginning(a: list[c.Observe], b: list[c.Observe]) -> None:
    found = difference(side(OPEN, *a), side(OPEN, *b))

    alike = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert (found.divergence.after if found.divergence else None) == (None if a == b else alike + 2)


async def test_the_api_explains_a_run_and_hides_those_of_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        a, b = [await served.open_run(workflow="w", title="t") for _ in range(2)]
        await served.report(b, note(1))
        report = await served.ask("GET", f"/api/runs/{a}/report")
        why = await (await served.ask("GET", f"/api/runs/{a}/why")).json()
        found = msgspec.convert(await (await served.ask("GET", f"/api/runs/{a}/diff/{b}")).json(), Difference)
        hidden = [
            (await served.ask("GET", f"/api/runs/{path}", token=OTHER)).status
            for path in (f"{a}/report", f"{a}/why", f"{a}/diff/{b}")
        ]

        assert (report.content_type, (await report.text()).splitlines()[0]) == ("text/markdown", "# t")
        assert why["causes"][0].startswith("The run is running")
        assert found.divergence is not None
        assert found.divergence.after == 2
        assert hidden == [404, 404, 404]


async def test_two_moments_of_one_run_are_compared_as_two_runs_are(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await served.open_run(title="t")
        await served.report(run_id, note(1))
        await served.report(run_id, note(2))
        await served.control(run_id, "complete")

        async def ask(query: str) -> Any:
            return await (await served.ask("GET", f"/api/runs/{run_id}/diff/{run_id}?{query}")).json()

        same, apart, none = await ask(""), await ask("at=v3"), await ask("at=1970-01-02")

    assert (same["divergence"], same["status"]) == (None, {"a": "completed", "b": "completed"})
    assert apart["status"] == {"a": "running", "b": "completed"}
    assert (apart["divergence"]["after"], apart["divergence"]["a"]) == (3, None)
    assert "message 2" in apart["divergence"]["b"]["text"]
    assert (none["status"], none["detail"]) == (404, f"run `{run_id}` was not there yet")


@pytest.mark.slow
def test_a_report_is_written_to_a_file_and_two_runs_are_compared_on_a_terminal(tmp_path: Path) -> None:
    record(tmp_path, "raise SystemExit(3)")
    record(tmp_path)
    ids = [line.split()[0] for line in runfold(tmp_path, "ps", "--all").stdout.splitlines()[1:]]

    written = runfold(tmp_path, "report", "@last", "-o", str(tmp_path / "r.md"))
    refused = runfold(tmp_path, "report", "@last", "-o", str(tmp_path / "no" / "r.md"))
    why = runfold(tmp_path, "why", ids[1])
    compared = runfold(tmp_path, "diff", ids[1], "@last")

    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "r.md").read_text().startswith("# ")
    assert (refused.returncode, refused.stderr.startswith("error: `")) == (1, True)
    assert "exited with 3" in why.stdout
    assert "failed EXIT_NONZERO" in compared.stdout.splitlines()[0]
    assert "Path" in compared.stdout

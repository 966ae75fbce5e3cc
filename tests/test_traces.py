"""Where in a program a run failed: kept in its event, shown to operators and developers."""

from pathlib import Path
from typing import Any

import pytest

from tests.served import ADMIN, OPERATOR, VIEWER, Served, serving
from tests.terminal import read, runfold

TRACE = "Traceback (most recent call last)\n  secret_module.py, line 3"
ERROR = {"code": "SYS_X", "message": "m", "stack_trace": TRACE}


def traces(snapshot: dict[str, Any]) -> list[str | None]:
    return [snapshot["error"].get("stack_trace"), snapshot["report"]["details"].get("stack_trace")]


@pytest.mark.parametrize(("token", "expected"), [(ADMIN, TRACE), (OPERATOR, TRACE), (VIEWER, None)])
async def test_a_stack_trace_is_shown_to_operators_alone(tmp_path: Path, token: str, expected: str | None) -> None:
    async with serving(tmp_path) as served:
        run_id = await _failed(served)

        now = await (await served.ask("GET", f"/api/runs/{run_id}", token=token)).json()
        past = await (await served.ask("GET", f"/api/runs/{run_id}?at={now['position']}", token=token)).json()

    assert traces(now) == traces(past) == [expected, expected]


async def test_what_a_viewer_has_is_not_taken_for_what_an_operator_sees(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await _failed(served)
        held = (await served.ask("GET", f"/api/runs/{run_id}", token=VIEWER)).headers["ETag"]

        again = await served.ask("GET", f"/api/runs/{run_id}", token=VIEWER, headers={"If-None-Match": held})
        other = await served.ask("GET", f"/api/runs/{run_id}", headers={"If-None-Match": held})

    assert (again.status, other.status) == (304, 200)


@pytest.mark.slow
async def test_the_terminal_shows_a_stack_trace_to_developers(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await _failed(served)

    assert traces(read(tmp_path, "status", run_id)) == [None, None]
    assert traces(read(tmp_path, "status", run_id, RUNFOLD_DEV="1")) == [TRACE, TRACE]
    assert "secret_module" not in runfold(tmp_path, "status", run_id).stdout
    assert "secret_module.py, line 3" in runfold(tmp_path, "status", run_id, RUNFOLD_DEV="1").stdout


async def _failed(served: Served) -> str:
    run_id = await served.open_run(title="breaks")
    answer = await served.control(run_id, "fail", reason_code="SYS_X", error=ERROR)
    assert answer.status < 300, await answer.text()
    return run_id

"""A budget of $1.00 and turns that cost $0.30 each, with a real agent program under a real worker: what is recorded."""

from pathlib import Path
from typing import Any

import pytest

from eventstore.ledger import Ledger
from runfold.commands import CheckLimits, Deny, Grant
from runfold.events import LimitExceeded, LimitWarned
from runfold.state import Run
from tests.working import Working, working

pytestmark = pytest.mark.slow
USAGE = '{"runfold": {"type": "token_usage", "model": "m", "input_tokens": 100, "cost_micros": 300000}}'
DAY_US = 86_400 * 1_000_000


def toml(on_exceed: str, turns: int = 6) -> str:
    return (
        f"[workflow.w]\ncommand = ['sh', '-c', '''echo turn >> turns; printf \"%s\\n\" '{USAGE}'''']\n"
        f'max_turns = {turns}\nlimits = {{ cost = {{ max = 1.0, on_exceed = "{on_exceed}" }} }}\n'
    )


def parallel_toml(steps: int, at_once: int) -> str:
    """Steps that spend $0.30 each once so many are at work, and then work on."""
    script = (
        f"touch at.$RUNFOLD_STEP; until [ $(ls at.* | wc -l) -ge {at_once} ]; do sleep 0.05; done; "
        f"printf \"%s\\n\" '{USAGE}'; sleep 600"
    )
    table = "[[workflow.w.steps]]\nid = 'sNUMBER'\ncommand = ['sh', '-c', '''" + script + "''']\n"
    head = "[workflow.w]\ngrace_seconds = 0.5\nlimits = { cost = 1.0 }\n"
    return head + "".join(table.replace("NUMBER", str(number)) for number in range(steps))


async def told(workers: Working, run_id: str) -> list[tuple[Any, ...]]:
    events = [it.event() for it in await workers.events(run_id)]
    return [
        (type(it).__name__, it.threshold, round(it.actual, 6))
        for it in events
        if isinstance(it, LimitWarned | LimitExceeded)
    ]


async def wait_asking(workers: Working, run_id: str, *, after: int = 0) -> Run:
    await workers.wait_type(run_id, "run_paused", after=after)
    return await workers.ledger.state(run_id)


async def test_stop_ends_the_run_at_the_turn_that_broke_it_and_says_what_was_spent(tmp_path: Path) -> None:
    async with working(tmp_path, toml("stop")) as workers:
        run_id = await workers.queue("w")
        run = await workers.wait_rest(run_id)

        assert (run.status, run.reason_code, run.cost_micros) == ("stopped", "COST_LIMIT_EXCEEDED", 1_200_000)
        assert (run.stop_threshold, run.stop_actual) == (1.0, 1.2)
        assert await told(workers, run_id) == [("LimitWarned", 1.0, 0.9), ("LimitExceeded", 1.0, 1.2)]
        assert (tmp_path / "turns").read_text().count("turn") == 4


async def test_warn_lets_the_run_go_on_to_its_end(tmp_path: Path) -> None:
    async with working(tmp_path, toml("warn")) as workers:
        run_id = await workers.queue("w")
        run = await workers.wait_rest(run_id)

        assert (run.status, run.cost_micros) == ("completed", 1_800_000)
        assert ("LimitExceeded", 1.0, 1.2) in await told(workers, run_id)


async def test_ask_holds_no_worker_and_goes_on_with_the_amount_that_is_granted_after_a_restart(tmp_path: Path) -> None:
    async with working(tmp_path, toml("ask")) as workers:
        run_id = await workers.queue("w")
        asking = await wait_asking(workers, run_id)
    async with working(tmp_path, toml("ask")) as workers:
        again = await workers.ledger.state(run_id)
        await workers.execute(run_id, Grant(approval_id=again.open_approvals[0], amount_micros=5_000_000))
        run = await workers.wait_rest(run_id)

        assert (asking.worker, asking.cost_micros, again) == ("", 1_200_000, asking)
        assert asking.approvals["a1"].amount_micros == 2_200_000
        # Six turns were ordered; the one that broke the limit was cut short, and its work is done by another.
        assert (run.status, run.cost_micros) == ("completed", 2_100_000)
        assert (tmp_path / "turns").read_text().count("turn") == 7


async def test_ten_steps_at_once_spend_no_more_than_was_in_flight_and_the_rest_is_written_down(tmp_path: Path) -> None:
    async with working(tmp_path, parallel_toml(steps=12, at_once=10), slots=10) as workers:
        run_id = await workers.queue("w")
        run = await workers.wait_rest(run_id)
        exceeded = [it for it in (x.event() for x in await workers.events(run_id)) if isinstance(it, LimitExceeded)]
        begun = [name for name, state in run.step_states.items() if state.attempt]

        assert (run.status, run.reason_code, len(begun)) == ("stopped", "COST_LIMIT_EXCEEDED", 10)
        assert run.cost_micros is not None
        assert 1_200_000 <= run.cost_micros <= 10 * 300_000
        assert [(it.threshold, it.actual, it.overshoot) for it in exceeded] == [(1.0, 1.2, 0.2)]
        assert (run.stop_threshold, run.stop_actual) == (1.0, run.cost_micros / 1_000_000)
        assert {run.step_states[name].status for name in begun} == {"cancelled"}


async def test_ask_stops_where_it_is_denied(tmp_path: Path) -> None:
    async with working(tmp_path, toml("ask")) as workers:
        run_id = await workers.queue("w")
        asking = await wait_asking(workers, run_id)
        run = await workers.execute(run_id, Deny(approval_id=asking.open_approvals[0]))

        assert (run.status, run.reason_code, run.cost_micros) == ("stopped", "APPROVAL_DENIED", 1_200_000)


async def test_ask_stops_where_nobody_answers_in_a_day(tmp_path: Path) -> None:
    async with working(tmp_path, toml("ask")) as workers:
        run_id = await workers.queue("w")
        asking = await wait_asking(workers, run_id)
        tomorrow = Ledger(workers.log, now_us=lambda: asking.updated_at_us + DAY_US)
        await tomorrow.execute(run_id, CheckLimits(), actor="system", tenant="default")
        run = await tomorrow.state(run_id)

        assert (run.status, run.reason_code) == ("stopped", "APPROVAL_EXPIRED")
